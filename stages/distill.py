"""On-policy distillation (report, 4.5): the student answers, the teacher's next-token distribution at every position
of the student's own answer is the target, over the full vocabulary. The teacher is scored at temperature 1, whatever
the student sampled at. With the teacher as its own student the loss is 0.
"""

from __future__ import annotations

import time

import numpy as np

from posttrain.configs.schema import Distill
from posttrain.errors import RewardError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.models import model_path
from posttrain.stages.data.schedule import BatchSchedule
from posttrain.stages.learner.losses import DivergenceLoss
from posttrain.stages.learner.modelfiles import ModelSpec
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.rollout.collect import completion_metrics, sampled_share, sampling_params
from posttrain.stages.rollout.episodes import rollouts
from posttrain.types import Group, Prompt, Sample

MAX_FAILURES = 0.2
"""Share of a step's episodes that an environment may fail."""


def run(context: StageContext) -> StageResult:
    """Distil the stage's teacher into its model on the model's own samples."""
    spec: Distill = context.spec
    schedule = BatchSchedule(
        load_all(context, spec.prompts),
        [s.weight for s in spec.prompts],
        size=spec.prompts_per_step,
        seed=context.seed,
    )
    session = TrainingSession.start(context, spec.steps)
    teacher_path, teacher = model_path(context, spec.teacher)
    session.check_partner(teacher_path, teacher.revision, f"the teacher {spec.teacher.source}")
    session.learner.load_frozen(ModelSpec.of(teacher_path, teacher))
    pool = context.workers.rollout()
    pool.load(ModelSpec.of(session.path, session.source), context.seed)
    pool.update_weights(session.learner.weights(), session.first)
    loss = DivergenceLoss(kind=spec.divergence, beta=spec.beta)
    params = sampling_params(spec.sampling)
    metrics: dict[str, float] = {}
    for step in session.steps():
        started = time.monotonic()
        prompts = [
            Prompt(**{**p.__dict__, "id": f"{p.id}+{i}"}) for i, p in enumerate(schedule.batch(step))
        ]  # a prompt may come twice in a step; its samples shall differ
        seed = derive_seed(context.seed, context.name, step)
        environments = context.workers.environment
        found = rollouts(pool, prompts, spec.group_size, params, seed=seed, environments=environments)
        groups = sorted(found, key=lambda g: g.prompt.id)
        generated = time.monotonic()
        metrics = completion_metrics(groups)
        if metrics.get("environment_failure_rate", 0.0) > MAX_FAILURES:
            failure = next(c.failure for g in groups for c in g.completions if c.failure)
            raise RewardError(f"more than {MAX_FAILURES:.0%} of a step's episodes failed; the first:\n{failure}")
        metrics |= session.learner.step(make_samples(groups), loss, step=step, micro_tokens=spec.micro_tokens)
        trained = time.monotonic()
        pool.update_weights(session.learner.weights(), step + 1)
        metrics |= {
            "seconds_generate": generated - started,
            "seconds_train": trained - generated,
            "seconds_sync": time.monotonic() - trained,
        }
        session.end_step(step, metrics, f"divergence {metrics['divergence']:.4f}")
    pool.free()
    return session.finish({k: metrics[k] for k in ("divergence", "agreement", "length") if k in metrics})


def make_samples(groups: list[Group]) -> list[Sample]:
    """What was sampled, as it was sampled; what was injected, or said by a tool, is context and no target."""
    return [
        Sample(
            ids=np.concatenate([c.prompt_ids, c.token_ids]),
            loss_mask=np.concatenate([np.zeros(len(c.prompt_ids), np.float32), sampled_share(c)]),
        )
        for group in groups
        for c in group.completions
        if not c.failure
    ]
