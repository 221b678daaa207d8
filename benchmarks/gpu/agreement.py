"""How far the engine's log-probabilities are from the learner's, and both from a float32 forward pass.

Sampled at temperature 1 without cuts. Nats a token: mean and largest absolute difference; and the KL between what was
sampled from and the other (k3, Schulman), estimated on the sampled tokens.
"""

from __future__ import annotations

import argparse
from typing import Any

import machine
import numpy as np


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="builtin:smollm2", help="a folder or a built-in")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--memory", type=float, default=0.3)
    parser.add_argument("--heads", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--eager", action="store_true")


def run(options: argparse.Namespace) -> None:
    from posttrain.stages.models.locations import builtin_path

    path = builtin_path(options.model) or options.model
    print(f"\n{options.model}, bfloat16, {options.prompts} x {options.group} x {options.max_tokens} tokens:")
    print(f"{'':<42}{'mean':>9}{'largest':>9}{'KL':>10}", flush=True)
    for head in options.heads:
        completions, learner = sampled(options, path, head)
        engine, exact = [c.logprobs for c in completions], exact_logprobs(path, completions)
        rows = [
            (f"{head} heads: engine against learner", engine, learner),
            (f"{head} head: engine against float32", engine, exact),
            (f"{head} head: learner against float32", learner, exact),
        ]
        for name, left, right in rows:
            gap = np.concatenate(right).astype(np.float64) - np.concatenate(left)
            kl = float(np.mean(np.expm1(gap) - gap))
            print(f"{name:<42}{np.abs(gap).mean():>9.5f}{np.abs(gap).max():>9.4f}{kl:>10.2e}", flush=True)


def sampled(options: argparse.Namespace, path: str, head: str) -> tuple[list[Any], list[Any]]:
    """Completions of the engine, and the learner's log-probabilities of their tokens."""
    import generation

    from posttrain.configs.schema import Cluster, LearnerCluster, RolloutCluster
    from posttrain.stages.learner.experience import sequence
    from posttrain.stages.models.model_files import ModelSpec
    from posttrain.types import SamplingParams

    cluster = Cluster(
        learner=LearnerCluster(gpus=0.5, dtype="bfloat16", zero=0, float32_head=head == "float32"),
        rollout=RolloutCluster(
            engine="vllm", gpus=0.5, dtype="bfloat16", memory=options.memory, eager=options.eager,
            float32_head=head == "float32",
        ),
    )  # fmt: skip
    with machine.actors(cluster) as workers:
        learner, pool = workers.learner(), workers.rollout()
        learner.load(ModelSpec(path=path), None)
        pool.load(ModelSpec(path=path))
        params = SamplingParams(max_tokens=options.max_tokens)
        groups = pool.generate(generation.questions(options), options.group, params, seed=0)
        completions = [c for group in groups for c in group.completions]
        samples = [sequence(c, 0) for c in completions]
        found = learner.logprobs(samples, micro_tokens=8192)
        values = [f[s.loss_mask > 0] for f, s in zip(found, samples, strict=True)]
        pool.free()
    return completions, values


def exact_logprobs(path: str, completions: list[Any]) -> list[Any]:
    """Of a plain forward pass in float32, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = False
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").cuda().eval()
    found = []
    for c in completions:
        ids = torch.from_numpy(np.concatenate([c.prompt_ids, c.token_ids]))[None].cuda()
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, len(c.prompt_ids) - 1 : -1].log_softmax(-1)
        chosen = torch.from_numpy(c.token_ids).cuda()
        found.append(logits.gather(-1, chosen[:, None])[:, 0].cpu().numpy())
    return found
