"""One GRPO step on a CPU: posttrain against TRL's GRPOTrainer, in tokens a second.

First a tiny model learns to answer sums at length, as in the recipe's cold start. Then both sides train it on the same
prompts with the same group size, most tokens, threads and reward, in float32, without activation checkpointing;
completions end where the model ends them. Each side has a process of its own, one after the other. posttrain runs its
engine and its learner in that process, without Ray. TRL generates a whole step's completions in one `generate` call and
trains at the batch size that is best for it, out of those tried.

generation counts sampled tokens; training counts all tokens of the sequences, the weight update included; the step
counts sampled tokens over everything: generation, rewards, training and, for posttrain, the way of the new weights to
the engine (TRL generates with the model it trains).

Not covered: GPUs, vLLM, several ranks, quality (tests hold losses and gradients against TRL's).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

WARM_UP = 1
PHASES = ("generate", "verify", "train", "weights")
COLD_START = 60  # steps of 32 worked sums
Report = dict[str, float]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides do."""

    model: str
    steps: int
    prompts: int
    group: int
    max_tokens: int
    threads: int
    clock: str

    def now(self) -> float:
        return time.process_time() if self.clock == "cpu" else time.perf_counter()


def reward(texts: list[str]) -> list[float]:
    """The share of digits: differs within a group, costs nothing."""
    return [sum(c.isdigit() for c in text) / (len(text) + 1) for text in texts]


def questions(work: Work) -> list[str]:
    """A question for each prompt of each step."""
    import random
    from itertools import islice

    from posttrain.stages.generators.builtin import arithmetic

    rows = arithmetic(random.Random(0), "train", terms=(3, 6))
    return [row["prompt"] for row in islice(rows, work.prompts * (work.steps + WARM_UP))]


def prepare(work: Work) -> None:
    """Sets threads, and silence."""
    import torch
    import transformers

    torch.set_num_threads(work.threads)
    transformers.utils.logging.disable_progress_bar()


def learner_worker(work: Work) -> Any:
    """The only rank of a learner, in this process."""
    from posttrain.configs.schema import LearnerCluster
    from posttrain.stages.learner.rank.worker import LearnerWorker

    worker = LearnerWorker(0, 1, LearnerCluster(), work.threads)
    worker.join("127.0.0.1", worker.host("127.0.0.1"))
    return worker


def cold_start(work: Work, folder: str) -> Report:
    """Write the model, fine-tuned on worked sums, to `folder`."""
    import random
    from itertools import islice

    from transformers import AutoTokenizer

    from posttrain.configs.schema import Optimizer
    from posttrain.stages.generators.builtin import arithmetic
    from posttrain.stages.learner.losses.losses import CrossEntropy
    from posttrain.stages.learner.rank.packing import pack, token_weights
    from posttrain.stages.models.chat import ChatFormat
    from posttrain.stages.models.locations import builtin_path
    from posttrain.stages.models.model_files import ModelSpec

    prepare(work)
    path = builtin_path(work.model) or work.model
    learner = learner_worker(work)
    learner.load(ModelSpec(path=path), Optimizer(), 0)
    chat = ChatFormat(AutoTokenizer.from_pretrained(path))
    samples = [
        chat.last_turn(
            [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "reasoning_content": row["solution"], "content": f"\\boxed{{{row['answer']}}}"},
            ]
        )
        for row in islice(arithmetic(random.Random(1), "train", terms=(3, 6)), COLD_START * 32)
    ]
    loss = 0.0
    for step in range(COLD_START):
        batch = samples[step * 32 :][:32]
        loss = learner.step([pack(batch, token_weights(batch, "token"), range(32))], CrossEntropy(), 1e-3)["loss"]
    learner.export(folder, path, "float32")
    return {"loss": loss}


def summarise(rows: list[Row]) -> Report:
    """The median over steps of each rate; the warm-up isn't counted."""
    rows = rows[WARM_UP:]

    def rate(tokens: str, seconds: str) -> float:
        return statistics.median(row[tokens] / row[seconds] for row in rows)

    return {
        "generation": rate("sampled", "generate"),
        "training": rate("trained", "train"),
        "step": rate("sampled", "step"),
        "sampled": statistics.mean(row["sampled"] for row in rows),
        "seconds": statistics.median(row["step"] for row in rows),
        **{f"seconds_{name}": statistics.median(row[name] for row in rows) for name in PHASES if name in rows[0]},
    }


# ---------------------------------------------------------------- posttrain


def run_posttrain(work: Work) -> Report:
    """posttrain's engine and learner, as its GRPO stage calls them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain.configs.schema import Grpo, Optimizer
    from posttrain.stages.learner.experience import experience
    from posttrain.stages.learner.losses.losses import PolicyLoss
    from posttrain.stages.learner.rank.packing import pack, plan_micro_batches, token_weights
    from posttrain.stages.models.model_files import ModelSpec
    from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine
    from posttrain.types import Prompt, SamplingParams, Score, ScoredGroup

    prepare(work)
    learner = learner_worker(work)
    learner.load(ModelSpec(path=work.model), Optimizer(lr=1e-6), 0)
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    engine = TransformersEngine(model, AutoTokenizer.from_pretrained(work.model), batch=work.prompts * work.group)
    spec = Grpo.model_validate({"kind": "grpo", "model": "base", "prompts": "x", "rewards": "math"})
    params = SamplingParams(max_tokens=work.max_tokens)
    asked = [Prompt(id=str(i), messages=({"role": "user", "content": q},)) for i, q in enumerate(questions(work))]
    rows = []
    for step in range(work.steps + WARM_UP):
        started = work.now()
        groups = list(engine.generate(asked[step * work.prompts :][: work.prompts], work.group, params, seed=step))
        generated = work.now()
        scored = [
            ScoredGroup(group=g, scores=tuple(Score(value=v) for v in reward([c.text for c in g.completions])))
            for g in groups
        ]
        samples = experience(scored, spec, step, weights={}).samples
        scored_at = work.now()
        weights = token_weights(samples, spec.aggregate)
        (share,) = plan_micro_batches(samples, 1, spec.micro_tokens)
        learner.step([pack(samples, weights, bin) for bin in share], PolicyLoss(), 1e-6)
        trained = work.now()
        new = learner.weights()
        assert new is not None
        engine.update_weights(new, step + 1)
        rows.append(
            {
                "sampled": sum(len(c.token_ids) for g in groups for c in g.completions),
                "trained": sum(s.tokens for s in samples),
                "generate": generated - started,
                "verify": scored_at - generated,
                "train": trained - scored_at,
                "weights": work.now() - trained,
                "step": work.now() - started,
            }
        )
    return summarise(rows)


# ---------------------------------------------------------------- TRL


def run_trl(work: Work, batch: int) -> Report:
    """TRL's GRPOTrainer; `batch` completions a forward pass."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    prepare(work)
    rows: list[Row] = []
    made = work.prompts * work.group

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            started = work.now()
            result = super()._generate_single_turn(*args, **kwargs)
            rows[-1]["generate"] = work.now() - started
            return result

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            started = work.now()
            result = super()._generate_and_score_completions(inputs)
            rows[-1]["before_training"] = work.now() - started
            rows[-1]["sampled"] = int(result["completion_mask"].sum())
            rows[-1]["trained"] = rows[-1]["sampled"] + int(result["prompt_mask"].sum())
            return result

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            rows.append({"started": work.now()})

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows[-1]["step"] = work.now() - rows[-1]["started"]
            rows[-1]["train"] = rows[-1]["step"] - rows[-1]["before_training"]

    def scores(completions: list[Any], **columns: Any) -> list[float]:
        return reward([completion[-1]["content"] for completion in completions])

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32),
            reward_funcs=scores,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=made // batch,
                num_generations=work.group,
                max_completion_length=work.max_tokens,
                max_steps=work.steps + WARM_UP,
                learning_rate=1e-6,
                beta=0.0,
                epsilon_high=0.28,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                shuffle_dataset=False,
            ),
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": q}]} for q in questions(work)]),
            processing_class=AutoTokenizer.from_pretrained(work.model),
            callbacks=[Clock()],
        )
        trainer.train()
    return summarise(rows)


# ---------------------------------------------------------------- the comparison


def alone(function: Callable[..., Report], *arguments: Any) -> Report:
    """Call `function` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def table(ours: Report, theirs: Report, batch: int) -> str:
    lines = [f"{'tokens/s':<12}{'posttrain':>12}{f'TRL (batch {batch})':>18}{'ratio':>8}"]
    for name in ("generation", "training", "step"):
        lines.append(f"{name:<12}{ours[name]:>12.0f}{theirs[name]:>18.0f}{ours[name] / theirs[name]:>8.2f}")
    lines.append(f"{'s/step':<12}{ours['seconds']:>12.2f}{theirs['seconds']:>18.2f}")
    lines.append(f"{'tokens/step':<12}{ours['sampled']:>12.0f}{theirs['sampled']:>18.0f}")
    for name in PHASES:
        cells = [f"{side[key]:.3f}" if (key := f"seconds_{name}") in side else "" for side in (ours, theirs)]
        lines.append(f"{f's/{name}':<12}{cells[0]:>12}{cells[1]:>18}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny", help="a built-in, a folder or a Hub id")
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one that isn't")
    parser.add_argument("--prompts", type=int, default=32, help="prompts a step")
    parser.add_argument("--group", type=int, default=8, help="completions a prompt")
    parser.add_argument("--max-tokens", type=int, default=64, help="most tokens of a completion")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each side")
    parser.add_argument(
        "--trl-batches", type=int, nargs="+", default=[32, 64, 128, 256], help="per_device_train_batch_size to try"
    )
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a machine with other work")
    parser.add_argument("--only", choices=["posttrain", "trl"], help="one side alone, as JSON")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    work = Work(
        model=options.model, steps=options.steps, prompts=options.prompts, group=options.group,
        max_tokens=options.max_tokens, threads=options.threads, clock=options.clock,
    )  # fmt: skip
    made = work.prompts * work.group
    wrong = [b for b in options.trl_batches if made % b or b % work.group]
    if wrong:
        parser.error(f"--trl-batches {wrong}: {made} completions a step don't split into them by whole groups")
    with tempfile.TemporaryDirectory() as folder:
        alone(cold_start, work, folder)
        compare(replace(work, model=folder), options.trl_batches, options.only)


def compare(work: Work, batches: list[int], only: str | None) -> None:
    """Measure what is asked for, and print it."""
    ours = alone(run_posttrain, work) if only != "trl" else {}
    tried = {batch: alone(run_trl, work, batch) for batch in batches} if only != "posttrain" else {}
    for batch, report in tried.items():
        print(json.dumps({"trl_batch": batch, **report}))
    if not tried:
        print(json.dumps(ours))
    elif ours:
        best = max(tried, key=lambda batch: tried[batch]["step"])
        print(table(ours, tried[best], best))


if __name__ == "__main__":
    main()
