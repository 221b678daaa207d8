"""Tokens a second of one rollout worker, with ids and log-probabilities, against vLLM's own offline generate.

Both decode the same random model from the same prompts with the same settings, one after the other: each takes the GPU.
Two rounds warm up, the best of the others counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import machine

WARM = 2


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=machine.SHAPES, default="0.6b")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=float, default=0.6)
    parser.add_argument("--dtype", default="bfloat16")


def run(options: argparse.Namespace) -> None:
    with machine.random_checkpoint(options.shape) as folder:
        alone = by_itself(options, folder)
        ours = by_worker(options, folder)
    count = options.prompts * options.group
    print(f"\n{count} sequences x {options.max_tokens} tokens, {options.shape}, tokens a second:")
    print(f"{'':<22}{'best':>10}  rounds")
    for name, rounds in (("vLLM by itself", alone), ("our worker", ours)):
        print(f"{name:<22}{max(rounds[WARM:]):>10,.0f}  {' '.join(f'{r:,.0f}' for r in rounds)}")
    print(f"{'ratio':<22}{max(ours[WARM:]) / max(alone[WARM:]):>10.3f}", flush=True)


def questions(options: argparse.Namespace) -> list[Any]:
    """The prompts of both."""
    from posttrain.types import Prompt

    asked = [{"role": "user", "content": f"Compute {i} + {i + 1} and say how."} for i in range(options.prompts)]
    return [Prompt(id=str(i), messages=(message,)) for i, message in enumerate(asked)]


def by_itself(options: argparse.Namespace, folder: str) -> list[float]:
    """vllm.LLM, each row a prompt with the engine's own sampling parameters."""
    from transformers import AutoTokenizer
    from vllm import LLM
    from vllm.sampling_params import RequestOutputKind

    from posttrain.stages.models.chat import ChatFormat
    from posttrain.stages.rollout.engines.vllm_calls import derived_seed
    from posttrain.stages.rollout.engines.vllm_start import engine_arguments, make_request
    from posttrain.types import SamplingParams

    ours = engine_arguments(settings(options), folder, None, "", 0)
    shared = ("dtype", "seed", "gpu_memory_utilization", "max_num_seqs", "max_model_len", "logprobs_mode")
    llm = LLM(
        model=folder, generation_config="vllm", enable_prefix_caching=True, disable_log_stats=True,
        **{name: ours[name] for name in shared if name in ours},
    )  # fmt: skip
    chat, rates = ChatFormat(AutoTokenizer.from_pretrained(folder)), []
    for number in range(WARM + options.rounds):
        prompts, asked = [], []
        for prompt in questions(options):
            for index in range(options.group):
                prompts.append({"prompt_token_ids": chat.prompt_ids(prompt).tolist()})
                seed = derived_seed(number, prompt.id, index, 0)
                params = make_request(SamplingParams(max_tokens=options.max_tokens), options.max_tokens, seed, [])
                params.output_kind = RequestOutputKind.FINAL_ONLY
                asked.append(params)
        began = time.monotonic()
        outputs = llm.generate(prompts, asked, use_tqdm=False)
        rates.append(sum(len(o.outputs[0].token_ids) for o in outputs) / (time.monotonic() - began))
    llm.llm_engine.engine_core.shutdown()
    return rates


def by_worker(options: argparse.Namespace, folder: str) -> list[float]:
    """A rollout worker in its actor: groups with ids, log-probabilities, versions and text."""
    from posttrain.configs.schema import Cluster
    from posttrain.stages.models.model_files import ModelSpec
    from posttrain.types import SamplingParams

    rates = []
    with machine.actors(Cluster(rollout=settings(options))) as workers:
        pool = workers.rollout()
        pool.load(ModelSpec(path=folder))
        for number in range(WARM + options.rounds):
            began = time.monotonic()
            params = SamplingParams(max_tokens=options.max_tokens)
            groups = list(pool.generate(questions(options), options.group, params, seed=number))
            taken = time.monotonic() - began
            rates.append(sum(len(c.token_ids) for g in groups for c in g.completions) / taken)
        pool.free()
    return rates


def settings(options: argparse.Namespace) -> Any:
    """The worker's settings, which are vLLM's too."""
    from posttrain.configs.schema import RolloutCluster

    return RolloutCluster(
        engine="vllm", gpus=1, dtype=options.dtype, batch=options.prompts * options.group, memory=options.memory
    )
