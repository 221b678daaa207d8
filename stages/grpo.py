"""Reasoning RL and general RL: GRPO (DeepSeekMath 2402.03300) and its family, by name.

One step: sample a group of answers to each prompt, score them, compare each with its group, and take one or more
policy-gradient steps on the tokens that were sampled. Between engine and learner nothing is re-encoded; what the two
disagree on is measured at every step, and corrected for.

    supply -> feed (now, or ahead of training) -> experience -> minibatches -> weights -> feed
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from posttrain.configs.schema import Grpo
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.context_fit import Fit
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.store import write_rows
from posttrain.stages.data.supply import PromptSupply
from posttrain.stages.evaluation.reward_watch import RewardWatch
from posttrain.stages.learner.experience import Experience, has_signal
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.learner.trainer import PolicyTrainer
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.group_source import Ahead, Feed, GroupSettings, Now
from posttrain.stages.rollout.in_flight_groups import restore_ahead, save_ahead
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.stages.rollout.scoring import (
    completion_metrics,
    pass_rate_histogram,
    rollout_rows,
    sampling_params,
    score_metrics,
)
from posttrain.types import Prompt, ScoredGroup


def run(context: StageContext) -> StageResult:
    """Train the stage's model on its prompts and rewards."""
    spec: Grpo = context.spec
    sources = load_all(context, spec.prompts, fit=Fit.of(context, spec.model, spec.sampling.max_tokens))
    supply = PromptSupply(sources, [s.weight for s in spec.prompts], seed=context.seed, difficulty=spec.difficulty)
    session = TrainingSession.start(context, spec.steps * spec.minibatches, answers=True)
    with context.workers.scorer(spec.rewards, context.locations) as scorer:
        asking = GroupSettings(
            pool=start_pool(context, session), scorer=scorer, group_size=spec.group_size,
            params=sampling_params(spec.sampling), environments=context.workers.environment, supply=supply,
            seed=lambda serial: derive_seed(context.seed, context.name, serial),
        )  # fmt: skip
        trainer, watch = PolicyTrainer(context, session), open_watch(context, session)
        with open_feed(asking, session, [p for source in sources for p in source]) as feed:
            for step in session.steps():
                scored, metrics = gather(feed, spec, step)
                if spec.asynchronous is None:
                    asking.pool.rest()
                found = trainer.learn(scored, step, scorer.weights)
                began = time.monotonic()
                push_weights(asking.pool, session, step + 1)
                feed.clock.add("sync", time.monotonic() - began)
                metrics |= found.metrics | trainer.after(step, found.metrics) | scorer.metrics() | supply.metrics()
                if watch is not None:
                    metrics |= watch.after(step, metrics.get("reward"))
                save_rollouts(context, step, scored, found)
                note = f"reward {metrics['reward']:.3f}" if "reward" in metrics else "no completion has a reward"
                session.end_step(step, metrics | feed.clock.read(), note)
    asking.pool.free()
    if not session.first and not session.trained:
        context.say(f"{context.name}: no step had anything to train on: its model is the one that it began with")
    return session.finish("reward", "entropy", "length")


def start_pool(context: StageContext, session: TrainingSession) -> RolloutPool:
    """The rollout workers with the weights that training starts, or goes on, from."""
    pool = context.workers.rollout()
    pool.follow(session.learner)
    pool.load(ModelSpec.of(session.path, session.source), context.seed)
    pool.update_weights(session.first)
    return pool


def push_weights(pool: RolloutPool, session: TrainingSession, version: int) -> None:
    """New weights for the workers: at once, or, if they generate ahead, while the next step is trained."""
    spec: Grpo = session.context.spec
    give = pool.update_weights if spec.asynchronous is None else pool.push_weights
    give(version)


def open_feed(asking: GroupSettings, session: TrainingSession, rows: Sequence[Prompt]) -> Feed:
    """Groups as the recipe wants them: when they are asked for, or ahead of training."""
    spec: Grpo = session.context.spec
    supply = asking.supply
    session.keep("supply", lambda: supply.state, supply.restore)
    if spec.asynchronous is None:
        return Now(asking)
    ahead = Ahead(asking, spec.asynchronous, first=session.first, last=spec.steps - 1, batch=spec.prompts_per_step)
    session.keep_file(
        "underway.jsonl", lambda path: save_ahead(ahead, path), lambda path: restore_ahead(ahead, path, rows)
    )
    return ahead


def open_watch(context: StageContext, session: TrainingSession) -> RewardWatch | None:
    """Held-out questions to ask while training, if the recipe names some."""
    spec: Grpo = context.spec
    if spec.watch is None:
        return None
    watch = RewardWatch(context, spec, spec.watch)
    session.keep("watch", lambda: watch.state, watch.restore)
    return watch


def gather(feed: Feed, spec: Grpo, step: int) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The step's groups and what they look like.

    With dynamic sampling (DAPO, 2503.14476, 3.2), groups whose rewards are all equal are replaced, within a budget of
    extra prompts; then the step trains on what it has, and `groups_missing` says how many that isn't.
    """
    everything = feed.take(step, spec.prompts_per_step)
    kept, asked = everything, 0
    if spec.dynamic_sampling is not None:
        budget = round(spec.dynamic_sampling.extra * spec.prompts_per_step)
        kept = [g for g in everything if has_signal(g, spec.combine)]
        while (missing := min(spec.prompts_per_step - len(kept), budget - asked)) > 0:
            fresh = feed.more(step, missing)
            asked += missing
            everything = [*everything, *fresh]
            kept += [g for g in fresh if has_signal(g, spec.combine)]
    metrics = {
        **score_metrics(everything),
        **completion_metrics([g.group for g in everything]),
        **pass_rate_histogram(everything, spec.group_size),
    }
    if spec.dynamic_sampling is not None:
        metrics |= {"groups_extra": float(asked), "groups_missing": float(spec.prompts_per_step - len(kept))}
    if spec.asynchronous is not None:
        versions = np.concatenate([c.versions for g in everything for c in g.group.completions])
        behind = step - versions
        metrics |= {"stale_versions": float(behind.mean()), "stale_versions_max": float(behind.max())}
    return kept, metrics


def save_rollouts(context: StageContext, step: int, scored: Sequence[ScoredGroup], found: Experience) -> None:
    """Keep the step's rollouts, if it's one of those that are kept."""
    every = context.logging.rollouts_every
    if every and scored and (step % every == 0 or step + 1 == context.spec.steps):
        rows = rollout_rows(scored, advantages=found.advantages)
        write_rows(context.dir / "rollouts", rows, f"step-{step + 1:06d}.parquet")
