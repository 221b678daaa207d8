"""Full-vocabulary divergence of two heads, forward and backward: posttrain, TRL's trainer, and the naive computation.

Each side has a process of its own, on the same hidden states and heads (student d, teacher 2 d, both of the same
vocabulary), in float32 on a CPU and bfloat16 on a GPU: gradients flow to the student's states and head. Peak memory is
what the computation adds to what its inputs take: on a GPU the allocator's, on a CPU the process's resident set.

    naive      both [tokens, vocabulary] tensors in float32, plain torch
    trl        trl.trainer.distillation_trainer's chunked loss (Triton kernels on a GPU, tiles elsewhere)
    posttrain  the learner's HeadGuide over chunks of logits, each with its gradient while it is there

Also: what a teacher that stands elsewhere would send for a token: hidden states, top-k, drawn ids, all logits.

Not covered: the backbones, which are the same for all; ZeRO (tests hold it equal); TRL's full trainer step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

Measured = dict[str, Any]


def inputs(tokens: int, vocabulary: int, width: int, device: str) -> dict[str, Any]:
    """Hidden states and heads of both sides."""
    import torch

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Any:
        return (torch.randn(*shape, generator=rng) * scale).to(device, dtype)

    return {
        "student": draw(tokens, width).requires_grad_(),
        "teacher": draw(tokens, 2 * width),
        "head": draw(vocabulary, width, scale=width**-0.5).requires_grad_(),
        "teacher_head": draw(vocabulary, 2 * width, scale=(2 * width) ** -0.5),
        "labels": torch.randint(0, vocabulary, (tokens,), generator=rng).to(device),
    }


def naive(given: dict[str, Any], kind: str) -> Any:
    import torch.nn.functional as F

    student = F.log_softmax(F.linear(given["student"], given["head"]).float(), -1)
    teacher = F.log_softmax(F.linear(given["teacher"], given["teacher_head"]).float(), -1)
    if kind == "forward_kl":
        return (teacher.exp() * (teacher - student)).sum(-1).mean()
    return (student.exp() * (student - teacher)).sum(-1).mean()


def trl(given: dict[str, Any], kind: str) -> Any:
    import torch
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(1, len(given["student"]), device=given["student"].device)
    loss, *_ = _chunked_divergence_loss(
        given["student"][None], given["teacher"][None], given["head"], given["teacher_head"], mask,
        beta={"forward_kl": 0.0, "reverse_kl": 1.0}[kind],
    )  # fmt: skip
    return loss


def posttrain(given: dict[str, Any], kind: str) -> Any:
    import torch
    import torch.nn.functional as F

    from posttrain.stages.learner.rank.guides import HeadGuide
    from posttrain.stages.learner.rank.head import chunk_size, weighted

    guide = HeadGuide(
        states=given["teacher"], head=lambda states: F.linear(states, given["teacher_head"]), kind=kind, beta=0.5
    )

    def head(states: Any, job: Any) -> Any:
        return job(states, given["head"])

    count = len(given["student"])
    loss, *_ = weighted(
        head, guide.compare, given["student"], torch.full((count,), 1 / count, device=given["student"].device),
        (given["labels"], *guide.tensors), -(-count // chunk_size(len(given["head"]), fused=given["student"].is_cuda)),
    )  # fmt: skip
    return loss


SIDES: dict[str, Callable[[dict[str, Any], str], Any]] = {"naive": naive, "trl": trl, "posttrain": posttrain}


def measure(side: str, tokens: int, vocabulary: int, width: int, device: str, kind: str, repeats: int) -> Measured:
    """Loss, the gradient's norm, peak memory in GiB and seconds of the best repeat; or why there is none."""
    import torch

    try:
        given = inputs(tokens, vocabulary, width, device)
        seconds = []
        with Peak(device) as peak:
            for _ in range(repeats):
                given["student"].grad = given["head"].grad = None
                began = time.perf_counter()
                loss = SIDES[side](given, kind)
                loss.backward()
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
        norm = float(given["student"].grad.float().norm())
        return {"loss": loss.item(), "norm": norm, "gib": peak.gib, "seconds": min(seconds)}
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        return {"error": str(error).splitlines()[0][:70]}


class Peak:
    """The most memory that was held inside it over what was held before, GiB."""

    def __init__(self, device: str) -> None:
        self.cuda, self.most, self.gib = device == "cuda", 0, 0.0
        self._process, self._over = psutil.Process(), threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def _held(self) -> int:
        import torch

        return torch.cuda.memory_allocated() if self.cuda else self._process.memory_info().rss

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, self._held())

    def __enter__(self) -> Peak:
        import torch

        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.before = self._held()
        if not self.cuda:
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self._over.set()
        most = torch.cuda.max_memory_allocated() if self.cuda else max(self.most, self._held())
        self.gib = (most - self.before) / 2**30


def _child(side: str, arguments: tuple[Any, ...], pipe: Any) -> None:
    pipe.send(measure(side, *arguments))


def alone(side: str, arguments: tuple[Any, ...]) -> Measured:
    """`measure` in a fresh process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(side, arguments, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        return {"error": f"the process ended with {process.exitcode}"}
    finally:
        process.join()


def bytes_a_token(width: int, vocabulary: int) -> dict[str, float]:
    """What crosses for one token, in bytes: bfloat16 states, 128 ids with float16 values, 12 drawn ids, all logits."""
    return {
        "hidden states": 2.0 * width,
        "top 128": 128 * (4 + 2),
        "drawn (50)": 12 * 3,
        "all logits": 2.0 * vocabulary,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--kinds", nargs="+", default=["reverse_kl", "forward_kl"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    options = parser.parse_args()
    print(f"{options.device}, vocabulary {options.vocabulary}, student {options.width}, teacher {2 * options.width}")
    print(f"{'tokens':>7} {'kind':<11} {'side':<10} {'GiB':>7} {'seconds':>8} {'loss':>10} {'gradient':>10}")
    for tokens in options.tokens:
        for kind in options.kinds:
            for side in options.sides:
                given = (tokens, options.vocabulary, options.width, options.device, kind, options.repeats)
                row, head = alone(side, given), f"{tokens:>7} {kind:<11} {side:<10}"
                numbers = "" if "error" in row else f"{row['gib']:>7.2f} {row['seconds']:>8.3f} {row['loss']:>10.5f}"
                print(head, row["error"] if "error" in row else f"{numbers} {row['norm']:>10.3e}", flush=True)
    print("bytes a token from a teacher elsewhere:", bytes_a_token(2 * options.width, options.vocabulary))


if __name__ == "__main__":
    main()
