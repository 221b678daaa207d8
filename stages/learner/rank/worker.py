"""One rank of the learner: a DeepSpeed engine around a `Policy`. Runs inside a Ray actor, but knows no Ray."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.errors import RunError
from posttrain.stages.learner.losses.losses import (
    DivergenceLoss,
    Loss,
    PolicyLoss,
    PolicyTokens,
    by_place,
    policy_loss,
)
from posttrain.stages.learner.losses.surrogates import Sequences
from posttrain.stages.learner.rank.attention import NAME, Layout
from posttrain.stages.learner.rank.frozen_models import FrozenModels
from posttrain.stages.learner.rank.frozen_names import teacher_name
from posttrain.stages.learner.rank.full_weights import named_weights
from posttrain.stages.learner.rank.guides import Guide, HeadGuide, StoredGuide
from posttrain.stages.learner.rank.head import chunk_size
from posttrain.stages.learner.rank.kernels import use_kernels
from posttrain.stages.learner.rank.memory import measure
from posttrain.stages.learner.rank.optimizer import DTYPES, forget, start_engine
from posttrain.stages.learner.rank.packing import PackedBatch
from posttrain.stages.learner.rank.policy import Policy
from posttrain.stages.models.model_files import ModelSpec, export_model, load_model, merged_names

MEET_TIMEOUT = 300.0
"""Seconds that a rank waits for the others to start."""
COLLECTIVE_TIMEOUT = 1200.0
"""The same within a step or a transfer of weights: rank 0 gives up on an engine before, and says why."""
TIGHT = 4 << 30
"""Free bytes of a GPU below which an engine on it might not find what it copies a bucket into."""


class LearnerWorker:
    """Holds at most one training engine, and frozen models by name. Every method is called on all ranks together."""

    def __init__(self, rank: int, ranks: int, settings: LearnerCluster, threads: int) -> None:
        self.rank, self.ranks, self.settings = rank, ranks, settings
        self.cuda = settings.gpus > 0
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        torch.set_num_threads(threads)
        if not self.cuda:
            os.environ["DS_ACCELERATOR"] = "cpu"
        self._store: TCPStore | None = None
        self.engine: Any = None
        self.sender: Any = None
        self.policy: Policy | None = None
        # As the policy is computed: at equal weights a reference is equal to it.
        self.frozen = FrozenModels(
            self.device, DTYPES[settings.dtype], settings.offload_frozen, kernels=settings.kernels,
            float32_head=settings.float32_head,
        )  # fmt: skip

    # ------------------------------------------------------------ set-up

    def host(self, address: str) -> int:
        """Open the ranks' meeting place on this rank's node; returns its port, which the system chose: never taken."""
        wait = timedelta(seconds=MEET_TIMEOUT)
        self._store = TCPStore(address, 0, self.ranks, is_master=True, timeout=wait, wait_for_workers=False)
        return int(self._store.port)

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks at rank 0's `address`; all ranks at a time."""
        rank, ranks = self.rank, self.ranks
        os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks))
        os.environ["LOCAL_RANK"] = "0"
        import deepspeed

        deepspeed.utils.logging.logger.setLevel("WARNING")
        # DeepSpeed would compile a shared-memory collective at first use; gloo serves without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend = "nccl" if self.cuda else "gloo"
        if self._store is None:
            self._store = TCPStore(address, port, ranks, timeout=timedelta(seconds=MEET_TIMEOUT))
        patience = timedelta(seconds=COLLECTIVE_TIMEOUT)
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=ranks, timeout=patience)
        deepspeed.init_distributed(backend, verbose=False)

    def load(
        self, spec: ModelSpec, optimizer: Optimizer | None, seed: int, zero: int | None = None
    ) -> dict[str, float]:
        """Load the model; with `optimizer` ready to train, without only to score. `zero` overrules the settings'."""
        self.free()
        self.zero = (self.settings if zero is None else self.settings.model_copy(update={"zero": zero})).stage
        dtype = DTYPES[self.settings.dtype]
        model = load_model(spec, dtype, NAME, seed)  # DeepSpeed makes float32 master weights of these
        if self.cuda:
            use_kernels(model, self.settings.kernels)
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.spec, self.config = spec, model.config
        self.policy = Policy(model, self.settings.float32_head)
        sizes = {"parameters": float(sum(p.numel() for p in model.parameters()))}
        if optimizer is None:
            self.policy.to(self.device).eval()
            return sizes
        self.engine = start_engine(self.policy, optimizer, self.settings, self.zero)
        return sizes

    def load_frozen(self, spec: ModelSpec, name: str, head: bool = False) -> None:
        """A model that isn't trained (a teacher, a reference), whole on every rank; or its head alone."""
        if head:
            self.frozen.load_head(name, spec, sharded=self.zero == 3 and self.ranks > 1)
        else:
            self.frozen.load(name, spec)

    def refresh(self, name: str) -> None:
        """Give the frozen model the weights that are being trained."""
        self.frozen.refresh(name, self.named_weights())
        self._give_back()

    def save_frozen(self, name: str, path: str) -> None:
        """Write a frozen model's weights (rank 0), for a resume after a refresh."""
        if self.rank == 0:
            self.frozen.save(name, path)

    def restore_frozen(self, name: str, path: str) -> None:
        """Read what `save_frozen` wrote."""
        self.frozen.restore(name, path)

    def free(self) -> None:
        """Drop engine and models; the process stays, and with it the buffer that an engine on this GPU reads."""
        if self.engine is not None:
            self.engine.destroy()
        self.engine = self.policy = self.sender = None
        self.frozen.clear()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    # ------------------------------------------------------------ train

    def step(
        self, batches: Sequence[PackedBatch], loss: Loss, lr: float, states: Sequence[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One optimizer step over this rank's micro-batches; all ranks have equally many.

        `states`: a teacher's hidden states [S, d] at each micro-batch's targets, if it stands elsewhere.

        Returns this rank's sums over targets by metric, and their count as `targets`. `loss` is the global loss's
        part of this rank; `grad_norm` is global: where it isn't finite, no rank changed a weight. On a GPU also what
        `memory` gives.
        """
        if self.engine is None:
            raise RunError("the learner has no model to train: call load first")
        self.memory()  # the peak is the step's
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.train()
        sums: dict[str, torch.Tensor] = {}  # on the device: reading them here would have it wait for every pass
        for index, batch in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(index == len(batches) - 1)
            value, metrics = self._loss(batch, loss, None if states is None else states[index])
            # An infinite loss may have finite gradients: no rank shall use them.
            value = value * torch.where(torch.isfinite(value.detach()), 1.0, torch.nan)
            # DeepSpeed averages gradients over ranks; the loss is normalised by global tokens already.
            self.engine.backward(value * self.ranks)
            real = self._tensor(batch.samples >= 0)
            found = {name: torch.where(real, column, 0).sum() for name, column in metrics.items()}
            for name, part in (found | {"loss": value.detach(), "targets": real.sum()}).items():
                sums[name] = sums.get(name, 0.0) + part.double()
        norm = self._gradient_norm()
        if norm is None or np.isfinite(norm):
            # With ZeRO, DeepSpeed itself drops, on all ranks, a step whose gradient norm isn't finite.
            self.engine.step()
            norm = float(self.engine.get_global_grad_norm()) if norm is None else norm
            if not np.isfinite(norm):
                forget(self.engine.optimizer)
        else:
            self.engine.zero_grad()
        self.frozen.rest()
        read = {name: total.item() for name, total in sums.items()} | {"grad_norm": norm}
        return read | self.memory() if self.cuda else read

    def _gradient_norm(self) -> float | None:
        """The norm before clipping where DeepSpeed, without ZeRO and in float32, keeps none; else None."""
        if hasattr(self.engine.optimizer, "_global_grad_norm"):
            return None
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _loss(
        self, batch: PackedBatch, loss: Loss, states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weights = self._tensor(batch.weights)
        stats = self._statistics(self.engine, batch, loss, states, weights)
        metrics = {"entropy": stats["entropy"].detach()}
        if isinstance(loss, PolicyLoss):
            tokens, extra = policy_loss(
                PolicyTokens(
                    logprobs=stats["logprobs"], entropy=stats["entropy"], old=self._tensor(batch.old_logprobs),
                    engine=self._tensor(batch.engine_logprobs), advantages=self._tensor(batch.advantages),
                    reference=self._tensor(batch.reference_logprobs), penalties=self._tensor(batch.penalties),
                ), Sequences.of(self._tensor(batch.samples)), loss,
            )  # fmt: skip
            return (tokens * weights).sum(), metrics | extra
        if isinstance(loss, DivergenceLoss):
            metrics |= {"divergence": stats["divergence"].detach(), "agreement": stats["agreement"]}
            metrics |= by_place(metrics, self._tensor(batch.samples))
        return stats["loss"], metrics

    def _statistics(
        self, module: Any, batch: PackedBatch, loss: Loss, states: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        extra: dict[str, Any] = {"weights": weights}
        if isinstance(loss, PolicyLoss):  # its tokens' weights hang on what is computed
            extra = {"temperature": loss.temperature, "entropy_gradient": loss.entropy != 0}
        elif isinstance(loss, DivergenceLoss):
            extra |= {"guide": self._guide(batch, loss, states)}
        assert self.policy is not None
        return module(
            self._tensor(batch.ids), self._tensor(batch.positions), Layout.of(batch, self.device),
            self._tensor(batch.sources), self._tensor(batch.targets), self._chunks(batch, loss), **extra,
        )  # fmt: skip

    def _guide(self, batch: PackedBatch, loss: DivergenceLoss, states: torch.Tensor | None) -> Guide:
        """What the student is compared with: stored targets, or a teacher that stands here or elsewhere."""
        if batch.teacher_ids is not None:
            assert batch.teacher_values is not None
            ids, values = self._tensor(batch.teacher_ids.astype(np.int64)), self._tensor(batch.teacher_values)
            return StoredGuide(ids=ids, values=values, kind=loss.kind, beta=loss.beta, drawn=loss.drawn)
        name = teacher_name(batch.teacher)
        head: Any = self.frozen.get(name).logits if states is None else self.frozen.heads[name]
        states = self.frozen.states(name, batch) if states is None else states.to(self.device)
        return HeadGuide(
            states=states, head=head, kind=loss.kind, beta=loss.beta, top_k=loss.top_k, support=loss.support
        )

    def _chunks(self, batch: PackedBatch, loss: Loss) -> int:
        """Head calls for this micro-batch: the most that any rank needs."""
        assert self.policy is not None
        plain = isinstance(loss, DivergenceLoss) and (loss.top_k > 0 or batch.teacher_ids is not None)
        own = -(-len(batch.targets) // chunk_size(self.policy.vocabulary, fused=self.cuda and not plain))
        if self.ranks == 1:
            return own  # no tensor: to read it would wait for the GPU
        count = torch.tensor([own], device=self.device)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        return int(count)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    # ------------------------------------------------------------ score

    @torch.no_grad()
    def logprobs(
        self, batches: Sequence[PackedBatch], temperature: float, frozen: str = ""
    ) -> list[NDArray[np.float32]]:
        """log pi(target) of each batch's targets, at `temperature`; a frozen model's if one is named."""
        own = self.engine if self.engine is not None else self.policy
        module = self.frozen.get(frozen) if frozen else own
        if module is None:
            raise RunError("the learner has no model to score with")
        module.eval()
        stats = (self._statistics(module, b, PolicyLoss(temperature=temperature)) for b in batches)
        found = [s["logprobs"].float().cpu().numpy() for s in stats]
        self.frozen.rest()
        return found

    def targets(
        self, batches: Sequence[PackedBatch], frozen: str, kind: str, count: int, seed: int
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """A frozen model's distributions at each batch's targets (see FrozenModels.targets), as arrays."""
        found = [
            self.frozen.targets(frozen, batch, kind, count, seed + number * self.ranks + self.rank)
            for number, batch in enumerate(batches)
        ]
        self.frozen.rest()
        return [(ids.numpy(), values.numpy()) for ids, values in found]

    # ------------------------------------------------------------ weights

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each full weight of the plain model, on all ranks together."""
        assert self.policy is not None
        return named_weights(self.policy.model, sharded=self.zero == 3 and self.engine is not None)

    def weights(self) -> dict[str, NDArray[Any]] | None:
        """The full weights as float32 arrays on rank 0, None elsewhere (all ranks take part in gathering)."""
        gathered = {}
        for name, weight in self.named_weights():
            if self.rank == 0:
                gathered[name] = weight.float().cpu().numpy().copy()
        return gathered if self.rank == 0 else None

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name and full shape of what `named_weights` gives, in its order."""
        assert self.policy is not None
        lora = self.spec.lora is not None
        named = ((merged_names(n) if lora else n, p) for n, p in self.policy.model.named_parameters())
        return [(name, tuple(getattr(p, "ds_shape", p.shape))) for name, p in named if name is not None]

    def connect(self, sender: Any) -> None:
        """Keep a sender of weights to GPUs (rollout/weights.py), and have it meet its receivers."""
        self.sender = sender
        sender.open(self.rank)

    def send_weights(self, version: int, check: bool) -> None:
        """Hand every full weight to the sender, on all ranks together."""
        room = self.sender.makes_room or self._crowded()
        if room:
            self._give_back()
        self.sender.send(self.named_weights(), self.weight_shapes(), version, check)
        if room:
            self._give_back()

    def _crowded(self) -> bool:
        """Whether an engine on this GPU might find no room for its copy of a bucket."""
        return self.cuda and self.settings.gpus < 1 and torch.cuda.mem_get_info()[0] < TIGHT

    def _give_back(self) -> None:
        """What PyTorch keeps of freed memory may be what an engine on the same GPU needs to wake up."""
        if self.cuda and self.settings.gpus < 1:
            torch.cuda.empty_cache()

    def export(self, folder: str, tokenizer_path: str, dtype: str) -> None:
        """Write the Hugging Face checkpoint on rank 0."""
        from transformers import AutoTokenizer

        # All ranks walk through the weights (gathering is collective); only rank 0 keeps them.
        state = {n: w.cpu().clone() if self.rank == 0 else w for n, w in self.named_weights()}
        if self.rank == 0:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, revision=self.spec.revision)
            export_model(self.config, state, tokenizer, Path(folder), DTYPES[dtype])

    # ------------------------------------------------------------ checkpoints

    def save(self, folder: str) -> None:
        """Write everything a bit-for-bit resume needs: weights, optimizer, counters (DeepSpeed's layout)."""
        self.engine.save_checkpoint(folder, tag="engine", exclude_frozen_parameters=self.spec.lora is not None)
        self._give_back()

    def restore(self, folder: str) -> None:
        """Continue from `folder`, which was saved with as many ranks and the same ZeRO stage."""
        try:
            loaded, _ = self.engine.load_checkpoint(folder, tag="engine", load_module_strict=self.spec.lora is None)
        except FileNotFoundError as error:
            raise RunError(
                f"the engine checkpoint in {folder} lacks a file for ZeRO's stage {self.zero}: {error}",
                fix="it is of another version, stage or number of ranks: start the stage anew with --force",
            ) from error
        if loaded is None:
            raise RunError(f"no engine checkpoint in {folder}", fix="delete this checkpoint folder to start earlier")

    def memory(self) -> dict[str, float]:
        """What `measure` says of this rank's GPU, GiB (0 on a CPU)."""
        return measure(self.cuda)
