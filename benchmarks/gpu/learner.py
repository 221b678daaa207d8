"""The learner on one GPU: tokens a second and MFU of SFT on packed rows, beside TRL's SFTTrainer with liger.

Both sides train the same documents (lengths log-normal around 700 tokens, cut at the row's length) packed into rows of
8,192 tokens, `micro` rows a step, in bfloat16 with float32 master weights and AdamW, without activation checkpointing.
Weights are random, of Qwen3's shape. Each side has a process of its own. The first steps (compilation) don't count;
tokens are those of documents. A side's options stand behind its name, `posttrain:rows=4,kernels=compile`: `rows` a
forward pass on both sides (with `ranks` up to 2 % more), `strategy` of TRL's packing, `ranks` of posttrain (Ray actors,
a GPU each, `micro` rows a rank; `ranks=1` is what to compare with), and what `cluster.learner` has. Whether the command
works shows without a GPU: `--shapes tiny --row 256 --sides posttrain:ranks=2,zero=3,gpus=0,dtype=float32`.

MFU counts 6 FLOPs a parameter and token (the embedding once, as head) and 12 x layers x heads x head_dim FLOPs a token
and position attended to (half of a document, mean), against the card's dense bfloat16 peak of 989 TFLOP/s.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import yaml

PEAK = 989e12
SLACK = 1.02
"""Rows are full to the last token; packed anew for ranks, as a stage's samples are, they don't fill them like that."""


def documents(rows: int, row: int) -> list[list[int]]:
    """The lengths of the documents of each of `rows` rows of `row` tokens."""
    rng = np.random.default_rng(0)
    found: list[list[int]] = []
    for _ in range(rows):
        left, lengths = row, list[int]()
        while left > 0:
            lengths.append(int(min(left, max(16, rng.lognormal(np.log(700), 0.8)))))
            left -= lengths[-1]
        found.append(lengths)
    return found


def flops(shape: dict[str, Any], rows: list[list[int]]) -> float:
    """Model FLOPs of training these rows once."""
    s = shape
    width = s["num_attention_heads"] * s["head_dim"]
    layer = s["hidden_size"] * (2 * width + 2 * s["num_key_value_heads"] * s["head_dim"] + 3 * s["intermediate_size"])
    parameters = s["num_hidden_layers"] * layer + s["hidden_size"] * s["vocab_size"]
    lengths = np.array([n for row in rows for n in row], float)
    return float(6 * parameters * lengths.sum() + 12 * s["num_hidden_layers"] * width * (lengths**2 / 2).sum())


def drawn(shape: dict[str, Any], micro: int, row: int) -> tuple[list[Any], list[list[int]]]:
    """Samples, and which of them fill each row."""
    from posttrain.types import Sample

    rng = np.random.default_rng(1)
    samples, rows = list[Any](), list[list[int]]()
    for lengths in documents(micro, row):
        first = len(samples)
        for n in lengths:
            mask = np.ones(n, np.float32)
            mask[0] = 0
            samples.append(Sample(ids=rng.integers(0, shape["vocab_size"], n), loss_mask=mask))
        rows.append(list(range(first, len(samples))))
    return samples, rows


def posttrain(shape: dict[str, Any], row: int, micro: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and the peak in GiB."""
    import torch

    from posttrain.configs.schema import Cluster, LearnerCluster, Optimizer
    from posttrain.stages.learner.losses.losses import CrossEntropy
    from posttrain.stages.learner.rank.packing import pack, token_weights
    from posttrain.stages.learner.rank.worker import LearnerWorker
    from posttrain.stages.models.model_files import ModelSpec

    asked: dict[str, Any] = {"zero": 0, "gpus": 1, "dtype": "bfloat16", **options}
    together, ranks = int(asked.pop("rows", 1)), int(asked.pop("ranks", 0))
    tokenizer = str(Path(__file__).parents[2] / "configs" / "models" / "tiny")
    spec, adam = ModelSpec(path=tokenizer, scratch={**shape, "max_position_embeddings": row}), Optimizer(lr=1e-5)
    samples, rows = drawn(shape, micro * max(1, ranks), row)
    settings = LearnerCluster(workers=max(1, ranks), **asked)
    if ranks:
        with machine.actors(Cluster(learner=settings)) as workers:
            group, found, most = workers.learner(), [], 0.0
            group.load(spec, adam)
            budget = int(together * row * SLACK)
            for number in range(steps):
                began = time.monotonic()
                metrics = group.step(samples, CrossEntropy(), step=number, micro_tokens=budget)
                found.append(time.monotonic() - began)
                most = max(most, metrics.get("gpu_peak_gib", 0.0))
            return {"seconds": found, "gib": most}
    worker = LearnerWorker(0, 1, settings, 8)
    worker.join("127.0.0.1", worker.host("127.0.0.1"))
    worker.load(spec, adam, 0)
    weights = token_weights(samples, "token")
    passes = [[j for members in rows[i : i + together] for j in members] for i in range(0, len(rows), together)]
    batches = [pack(samples, weights, members) for members in passes]
    found, most = [], 0.0
    for _ in range(steps):
        torch.cuda.synchronize()
        began = time.monotonic()
        metrics = worker.step(batches, CrossEntropy(), 1e-5)
        torch.cuda.synchronize()
        found.append(time.monotonic() - began)
        most = max(most, metrics["gpu_peak_gib"])
    return {"seconds": found, "gib": most}


def trl(shape: dict[str, Any], row: int, micro: int, steps: int, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step of TRL's SFTTrainer, and the peak in GiB."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rng = np.random.default_rng(1)
    lengths = [n for filled in documents(micro * (steps + 1), row) for n in filled]
    data = Dataset.from_dict({"input_ids": [rng.integers(0, shape["vocab_size"], n).tolist() for n in lengths]})
    tokenizer = AutoTokenizer.from_pretrained(str(Path(__file__).parents[2] / "configs" / "models" / "tiny"))
    model = Qwen3ForCausalLM._from_config(
        Qwen3Config(**{**shape, "max_position_embeddings": row}), dtype=torch.float32, attn_implementation="sdpa"
    )
    found: list[float] = []
    together = int(options.get("rows", 1))

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            found.append(time.monotonic() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, packing=True, max_length=row, per_device_train_batch_size=together, report_to=[],
            gradient_accumulation_steps=micro // together, max_steps=steps, bf16=True, use_liger_kernel=True,
            learning_rate=1e-5, gradient_checkpointing=False, save_strategy="no", logging_steps=1000,
            packing_strategy=options.get("strategy", "bfd"),
        )  # fmt: skip
        SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]).train()
    return {"seconds": found, "gib": torch.cuda.max_memory_allocated() / 2**30}


SIDES = {"posttrain": posttrain, "trl": trl}


def one(argument: str) -> None:
    """A side in this process: its steps' seconds and peak memory as one line of JSON."""
    asked = json.loads(argument)
    print(json.dumps(SIDES[asked.pop("side")](machine.SHAPES[asked.pop("shape")], **asked)))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shapes", nargs="+", default=["0.6b", "1.7b"], choices=machine.SHAPES)
    parser.add_argument("--row", type=int, default=8192, help="tokens")
    parser.add_argument("--sides", nargs="+", default=["posttrain", "trl"], help="NAME or NAME:option=value,...")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--limit", type=int, default=150, help="seconds a side")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    if args.one:
        return one(args.one)
    print("| shape | side | tokens/s | MFU | ms a step | first step s | peak GiB |\n" + "|---" * 7 + "|")
    for shape in args.shapes:
        for side in args.sides:
            name, _, text = side.partition(":")
            pairs = {key: yaml.safe_load(value) for key, value in (p.split("=") for p in text.split(",") if p)}
            asked = {"side": name, "shape": shape, "options": pairs}
            asked |= {"row": args.row, "micro": args.micro, "steps": args.steps}
            got = machine.apart("learner", "--one", asked, args.limit)
            if isinstance(got, str):
                print(f"| {shape} | {side} | {got} | | | | |", flush=True)
                continue
            step, ranks = median(got["seconds"][2:]), int(pairs.get("ranks", 1))
            rows = documents(args.micro * ranks, args.row)
            tokens = sum(map(sum, rows)) / step
            mfu = flops(machine.SHAPES[shape], rows) / step / (PEAK * ranks)
            print(
                f"| {shape} | {side} | {tokens:.0f} | {mfu:.1%} | {step * 1e3:.0f} | {got['seconds'][0]:.1f} | "
                f"{got['gib']:.1f} |", flush=True,
            )  # fmt: skip
