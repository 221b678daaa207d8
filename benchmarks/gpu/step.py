"""Whole GRPO steps on one GPU: `posttrain run` with vLLM beside the learner, against TRL's GRPOTrainer with colocated
vLLM and liger's loss. With `--ranks` on several GPUs, the same work shared out (`--trl-batches 0`: TRL has one).

Both start from the same random model, which never ends a turn: every completion has all its tokens. Rewards are drawn
from the text's hash, so advantages aren't zero and nobody waits for them. TRL's `per_device_train_batch_size` is the
best of those tried; posttrain's `micro_tokens` is the recipe's. Steps are told apart by the time between two lines of
metrics.jsonl, so posttrain makes one more. The first of each side (compilation, graphs) doesn't count; a side whose
time is up counts with the steps that it made. Starting takes two to four minutes of `--limit`, half of them vLLM's with
CUDA graphs.

Whether the command works shows without a GPU: `--cpu --shape tiny --prompts 4 --group 2 --max-tokens 16 --trl-batches
0`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import IO, Any

import machine

ENDING = 60.0
"""Seconds that a run has to end by itself: it stops behind its step, and frees the GPU."""
REWARD = '''
import zlib

def noise(prompts, completions, **columns):
    """Of the text's hash: 0 or 1."""
    return [float(zlib.crc32(c[-1]["content"].encode()) % 2) for c in completions]
'''


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=machine.SHAPES, default="0.6b")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--micro-tokens", type=int, default=32768)
    parser.add_argument("--memory", type=float, default=0.4, help="vLLM's share of the GPU, on both sides")
    parser.add_argument(
        "--trl-batches", type=int, nargs="+", default=[16], help="completions a forward pass; 0: no TRL"
    )
    parser.add_argument("--limit", type=int, default=420, help="seconds a side")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs on our side")
    parser.add_argument("--ranks", type=int, default=1, help="GPUs of our side, a rank and an engine on each")
    parser.add_argument("--zero", type=int, choices=[0, 1, 2, 3], default=0)
    parser.add_argument("--cpu", action="store_true", help="the transformers engine, without a GPU")
    parser.add_argument("--trl", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    if options.trl:
        return by_trl(json.loads(options.trl))
    made = options.prompts * options.group * options.max_tokens
    print(f"\n{options.prompts} x {options.group} completions of {options.max_tokens} tokens, {options.shape}")
    print("| | seconds a step | tokens/s | generate | train | weights | rest |\n" + "|---" * 7 + "|")
    with machine.random_checkpoint(options.shape) as folder:
        show("posttrain", posttrain(options, folder), made)
        for batch in options.trl_batches:
            if batch:
                show(f"TRL, {batch} a pass", trl(options, folder, batch), made)


def show(side: str, rows: list[dict[str, float]] | str, made: int) -> None:
    if isinstance(rows, str):
        print(f"| {side} | {rows} |", flush=True)
        return
    if len(rows) < 2:
        print(f"| {side} | one step in the given time |", flush=True)
        return
    found = {name: median(row[name] for row in rows[1:]) for name in ("step", "generate", "train", "sync")}
    rest = found["step"] - found["generate"] - found["train"] - found["sync"]
    cells = [found["step"], found["generate"], found["train"], found["sync"], rest]
    print(
        f"| {side}, {len(rows) - 1} steps | {cells[0]:.2f} | {made / cells[0]:,.0f} | "
        + " | ".join(f"{c:.2f}" for c in cells[1:])
        + " |",
        flush=True,
    )


def posttrain(options: argparse.Namespace, folder: str) -> list[dict[str, float]] | str:
    """Seconds of each step, by what they went to."""
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        (here / "noise.py").write_text(REWARD, encoding="utf-8")
        recipe = {
            "name": "step", "base": folder,
            "cluster": cluster(options),
            "stages": {
                "rl": {
                    "kind": "grpo", "model": "base", "prompts": {"from": "builtin:arithmetic", "n": 4000},
                    "rewards": [{"use": "noise.py:noise"}], "prompts_per_step": options.prompts,
                    "group_size": options.group, "steps": options.steps + 1,
                    "sampling": {"max_tokens": options.max_tokens},
                    "micro_tokens": options.micro_tokens, "optimizer": {"lr": 1e-6},
                }
            },
            "logging": {"rollouts_every": 0},
        }  # fmt: skip
        (here / "step.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "posttrain", "run", str(here / "step.yaml"), "--run-dir", str(here / "run")]
        with Ticks(here / "run" / "rl" / "metrics.jsonl") as ticks, open(here / "log", "w+", encoding="utf-8") as log:
            late, failed = in_time(command, log, options.limit)
            if failed or len(ticks.times) < 3:
                log.seek(0)
                return f"{f'not two steps in {options.limit} s' if late else 'failed'}: {log.read()[-1500:]}"
        found = [json.loads(line) for line in ticks.path.read_text(encoding="utf-8").split("\n")[:-1]]
    gaps = [later - earlier for earlier, later in zip(ticks.times, ticks.times[1:], strict=False)]
    return [
        {"step": gap, "sync": row["seconds_sync"], "train": row["seconds_train"], "generate": row["seconds_generate"]}
        for gap, row in zip(gaps, found[1:], strict=True)
    ]


def cluster(options: argparse.Namespace) -> dict[str, Any]:
    """Learner and vLLM on the same GPUs, their memory the learner's own while it trains."""
    learner = {"workers": options.ranks, "zero": options.zero}
    if options.cpu:
        return {"learner": learner, "rollout": {"workers": options.ranks}}
    return {
        "learner": {**learner, "gpus": 0.5, "dtype": "bfloat16"},
        "rollout": {
            "workers": options.ranks, "gpus": 0.5, "engine": "vllm", "dtype": "bfloat16",
            "batch": options.prompts * options.group // options.ranks, "memory": options.memory,
            "max_context": options.max_tokens + 256, "sleep": True, "eager": options.eager,
        },
    }  # fmt: skip


def in_time(command: list[str], log: IO[str], limit: int) -> tuple[bool, bool]:
    """Whether it took more than `limit` seconds, and was ended with all that it had started; whether it failed."""
    run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return False, run.wait(limit) != 0
    except subprocess.TimeoutExpired:
        run.terminate()
        with suppress(subprocess.TimeoutExpired):
            run.wait(ENDING)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return True, False


class Ticks:
    """When each line of a growing file came."""

    def __init__(self, path: Path) -> None:
        self.path, self.times = path, list[float]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            if self.path.exists():
                self.times += [time.monotonic()] * (self.path.read_bytes().count(b"\n") - len(self.times))

    def __enter__(self) -> Ticks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.1)
        self._over.set()
        self._thread.join()


def trl(options: argparse.Namespace, folder: str, batch: int) -> list[dict[str, float]] | str:
    """The same of TRL's trainer, in a process of its own."""
    asked = {**vars(options), "folder": folder, "batch": batch}
    rows: list[dict[str, float]] | str = machine.apart("step", "--trl", asked, options.limit)
    return rows


def by_trl(asked: dict[str, Any]) -> None:
    import zlib

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows: list[dict[str, float]] = []

    def now() -> float:
        torch.cuda.synchronize()
        return time.monotonic()

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            started = now()
            result = super()._generate_single_turn(*args, **kwargs)
            rows[-1]["generate"] = now() - started
            return result

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = now()
            result = super()._generate_and_score_completions(inputs)
            rows[-1]["before"] = now() - started
            return result

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            rows.append({"began": now(), "sync": 0.0})

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows[-1]["step"] = now() - rows[-1]["began"]
            rows[-1]["train"] = rows[-1]["step"] - rows[-1]["before"]
            print("\n" + json.dumps(rows), flush=True)  # the last line counts, also if time is up

    def noise(completions: list[Any], **_: Any) -> list[float]:
        return [float(zlib.crc32(c[-1]["content"].encode()) % 2) for c in completions]

    made = asked["prompts"] * asked["group"]
    with tempfile.TemporaryDirectory() as place:
        config = GRPOConfig(
            output_dir=place, per_device_train_batch_size=asked["batch"], num_generations=asked["group"],
            gradient_accumulation_steps=made // asked["batch"], max_completion_length=asked["max_tokens"],
            max_steps=asked["steps"], learning_rate=1e-6, beta=0.0, bf16=True, use_liger_kernel=True, use_vllm=True,
            vllm_mode="colocate", vllm_gpu_memory_utilization=asked["memory"], vllm_enable_sleep_mode=True,
            vllm_max_model_length=asked["max_tokens"] + 256, gradient_checkpointing=False, report_to=[],
            save_strategy="no", logging_steps=1000, disable_tqdm=True,
        )  # fmt: skip
        questions = [{"prompt": [{"role": "user", "content": f"What is {i}+{i + 7}?"}]} for i in range(4000)]
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(asked["folder"], dtype=torch.float32), reward_funcs=noise,
            args=config, train_dataset=Dataset.from_list(questions), callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(asked["folder"]),
        )  # fmt: skip
        trainer.train()
