"""Starts vLLM for a worker: from the recipe's settings to an engine, with an error that says what to change. An engine
of the stage before goes on with the new model, if their configurations are one.

Settings and what they mean are vLLM's own (vllm/engine/arg_utils.py, 0.26). Chosen here and not by the recipe:

    logprobs_mode      processed_logprobs: of the distribution that is sampled, temperature and cuts applied
    generation_config  vllm: nothing of the checkpoint's sampling defaults comes in by itself
    stream_interval    a row's tokens come in parts of this many: one by one, Python would be slower than a small model
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from posttrain.configs.schema import RolloutCluster
from posttrain.errors import RecipeError, RunError
from posttrain.stages.models.model_files import ModelSpec, export_model, load_model
from posttrain.stages.rollout.engines.error_log import last_error, written
from posttrain.stages.rollout.engines.event_loop import EventLoop
from posttrain.stages.rollout.engines.vllm_engine import VllmEngine
from posttrain.types import SamplingParams

log = logging.getLogger(__name__)

START_PATIENCE = 900.0
"""Seconds until vLLM is up, all starts together: the first on a machine compiles."""
STARTS = 3
"""How often at most."""
MEASURED = "Error in memory profiling"
"""What vLLM says (v1/worker/gpu_worker.py, 0.26) where another program gave GPU memory back under its measurement."""
STREAM = 16
FILLED = 0.9
"""Share of a GPU, or of a worker's part of one, that vLLM takes if the recipe doesn't say."""
EXTENSION = "posttrain.stages.rollout.engines.vllm_worker.WorkerExtension"
GIB = float(1 << 30)
_ORIGIN = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")


def engine_for(
    settings: RolloutCluster, spec: ModelSpec, backend: str, seed: int, kept: VllmEngine | None = None
) -> VllmEngine:
    """An engine with the model of `spec`: `kept`, which is parked, if the model is of its kind, or a new one.

    `backend` is how weights will come ("ipc", "nccl"), empty if none will.

    Raises:
        RecipeError: vLLM isn't installed.
        RunError: it didn't start; says how much memory there was.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec.path, revision=spec.revision)
    backend = backend or ("ipc" if settings.gpus < 1 else "nccl")  # what a later stage will most likely ask for
    with tempfile.TemporaryDirectory(prefix="posttrain-model-") as scratch:
        folder = _plain_folder(spec, tokenizer, Path(scratch), settings, seed)
        kind = json.dumps([backend, _shape(folder, spec.revision)], sort_keys=True, default=str)
        if kept is not None and kept.kind == kind and Path(folder).is_dir() and _taken_up(kept, folder, tokenizer):
            return kept
        if kept is not None:
            kept.close()
        return _start(settings, engine_arguments(settings, folder, spec.revision, backend, seed), tokenizer, kind)


def _taken_up(kept: VllmEngine, folder: str, tokenizer: Any) -> bool:
    try:
        kept.replace(folder, tokenizer)
    except Exception as error:  # noqa: BLE001  whatever it is, a fresh start follows, which says what is wrong
        log.warning("vLLM didn't take up the next model, and starts anew: %s", error)
        return False
    return True


def _shape(folder: str, revision: str | None) -> dict[str, Any]:
    """A checkpoint's configuration but for what says where it comes from."""
    from transformers import AutoConfig

    found: dict[str, Any] = AutoConfig.from_pretrained(folder, revision=revision).to_dict()
    return {name: value for name, value in found.items() if name not in _ORIGIN}


def _start(settings: RolloutCluster, arguments: dict[str, Any], tokenizer: Any, kind: str) -> VllmEngine:
    # vLLM's processes get handles of GPU memory, pickled, from this one; nobody else can reach their sockets.
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # an engine never leaves its node
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    llm, loop = _started(settings, arguments)
    limit = llm.model_config.max_model_len
    return VllmEngine(llm, tokenizer, loop, request=make_request, batch=settings.batch, limit=limit, kind=kind)


def _started(settings: RolloutCluster, arguments: dict[str, Any]) -> tuple[Any, EventLoop]:
    """vLLM, and the loop that it lives in; begun again if memory came free while it measured what there is."""
    until = time.monotonic() + START_PATIENCE
    starts = 0
    while True:
        starts += 1
        loop, before = EventLoop(), written()
        try:
            return loop.call(_launch(arguments), max(1.0, until - time.monotonic())), loop
        except RecipeError:
            loop.close()
            raise
        except Exception as error:
            loop.close()
            why = last_error(since=before) or str(error)
            if starts == STARTS or MEASURED not in why:
                raise _refusal(why, settings) from error
            log.warning("memory of the GPU came free while vLLM measured it: it starts again")


async def _launch(arguments: dict[str, Any]) -> Any:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise RecipeError(
            f"vLLM can't be imported: {error}", where="cluster.rollout.engine",
            fix="pip install 'posttrain[vllm]', or use engine: transformers",
        ) from error  # fmt: skip
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    await llm.collective_rpc("die_with_parent")
    return llm


def engine_arguments(
    settings: RolloutCluster, path: str, revision: str | None, backend: str, seed: int
) -> dict[str, Any]:
    """The fields of AsyncEngineArgs."""
    parallel = max(1, int(settings.gpus))
    arguments: dict[str, Any] = {
        "model": path, "revision": revision, "dtype": settings.dtype, "seed": seed,
        "tensor_parallel_size": parallel, "distributed_executor_backend": "uni" if parallel == 1 else "mp",
        "gpu_memory_utilization": share_of_gpu(settings), "max_num_seqs": settings.batch,
        "enforce_eager": settings.eager, "enable_sleep_mode": settings.can_sleep,
        "enable_prefix_caching": True, "logprobs_mode": "processed_logprobs", "generation_config": "vllm",
        "stream_interval": STREAM, "disable_log_stats": True, "worker_extension_cls": EXTENSION,
    }  # fmt: skip
    if settings.max_context is not None:
        arguments["max_model_len"] = settings.max_context
    if settings.float32_head:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if backend:
        arguments["weight_transfer_config"] = {"backend": backend}
    return arguments


def share_of_gpu(settings: RolloutCluster) -> float:
    """What vLLM may take of each of its GPUs, cache and all."""
    return settings.memory if settings.memory is not None else FILLED * min(1.0, settings.gpus)


def make_request(params: SamplingParams, most: int, seed: int, stops: Sequence[int]) -> Any:
    """vLLM's SamplingParams for the rest of a row: `most` tokens, ended by `stops` alone."""
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmParams

    return VllmParams(
        max_tokens=most, temperature=params.temperature, top_p=params.top_p, top_k=params.top_k, seed=seed,
        stop_token_ids=list(stops), ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False,
        output_kind=RequestOutputKind.DELTA, skip_clone=True,
    )  # fmt: skip


def _plain_folder(spec: ModelSpec, tokenizer: Any, scratch: Path, settings: RolloutCluster, seed: int) -> str:
    """A checkpoint that vLLM can load: random and pruned models are written out first."""
    if spec.scratch is None and spec.layers is None:
        return spec.path
    dtype: torch.dtype = getattr(torch, settings.dtype)
    model = load_model(spec, dtype, "sdpa", seed)
    export_model(model.config, dict(model.named_parameters()), tokenizer, scratch, dtype)
    return str(scratch)


def _refusal(why: str, settings: RolloutCluster) -> RunError:
    share = share_of_gpu(settings)
    what, fix = f"vLLM didn't start: {why}", "see whether this vLLM knows this model and this GPU"
    if MEASURED in why:
        fix = "another program gives memory of this GPU back: start when it's done, or where it isn't"
    elif torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        what += f"\n  the GPU has {free / GIB:.1f} of {total / GIB:.1f} GiB free, vLLM was to take {share:.0%}"
        fix = (
            "lower cluster.rollout.memory, or give the learner less"
            if free < share * total
            else "raise cluster.rollout.memory, or lower max_context: the cache must hold one whole sequence"
        )
    return RunError(what, where="cluster.rollout", fix=fix)
