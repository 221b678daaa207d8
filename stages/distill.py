"""On-policy distillation (report, 4.5): the student answers, the teacher's next-token distribution at every position
of the student's own answer is the target. Over the full vocabulary, over the likeliest ids with a bucket for the rest,
or by the sampled tokens alone. The teacher is scored at temperature 1, whatever the student sampled at. With the
teacher as its own student the loss is 0.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posttrain.configs.schema import Distill, PromptSource
from posttrain.errors import DataError, RewardError
from posttrain.rewards.base import fits, row_columns
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.batch_schedule import BatchSchedule
from posttrain.stages.data.context_fit import Fit
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.supply import PromptSupply, numbered
from posttrain.stages.learner.distributions import FOLDER, read_stored
from posttrain.stages.learner.experience import guided, sequence
from posttrain.stages.learner.losses.losses import PLACES, DivergenceLoss, PolicyLoss
from posttrain.stages.learner.rank.frozen_names import teacher_name
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.learner.teachers import TeacherPool
from posttrain.stages.models.chat import check_handover
from posttrain.stages.models.locations import model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.episodes import rollouts
from posttrain.stages.rollout.scoring import completion_metrics, sampling_params
from posttrain.types import Group, Prompt, Sample

MAX_FAILURES = 0.2
"""Share of a step's episodes that an environment may fail."""
BOUND = 20.0
"""Nats: a sampled token's log-ratio counts up to here."""
BEGINNING = 5
"""Steps whose share of truncated answers later ones are compared with."""


def run(context: StageContext) -> StageResult:
    """Distil the stage's teachers into its model: on the model's own samples, or on what was stored."""
    spec: Distill = context.spec
    return on_policy(context, spec) if spec.stored is None else off_policy(context, spec, spec.stored)


def off_policy(context: StageContext, spec: Distill, source: PromptSource) -> StageResult:
    """Learn the distributions that a `sample` stage stored beside its teacher's responses.

    Raises:
        DataError: there are none; or they are draws, which only forward KL can use.
        HandoverError: their teacher has another tokenizer or template than the student.
    """
    folder = context.inputs[source.source] / FOLDER
    form, fingerprint, samples = read_stored(folder)
    if form.kind == "draws" and spec.divergence != "forward_kl":
        raise DataError(
            f"draws from the teacher can't give {spec.divergence}", where=str(folder),
            fix="use divergence: forward_kl, or store: {top_k: 64}",
        )  # fmt: skip
    session = TrainingSession.start(context, spec.steps)
    check_handover(session.chat.fingerprint(), fingerprint, context.name, f"the distributions of {source.source}")
    schedule = BatchSchedule([samples], [1.0], size=spec.prompts_per_step, seed=context.seed)
    assert spec.divergence != "policy_gradient"
    loss = DivergenceLoss(kind=spec.divergence, beta=spec.beta, drawn=form.kind == "draws")
    for step in session.steps():
        began = time.monotonic()
        metrics = in_places(session.learner.step(schedule.batch(step), loss, step=step, micro_tokens=spec.micro_tokens))
        metrics["seconds_train"] = time.monotonic() - began
        session.end_step(step, metrics, f"divergence {metrics['divergence']:.4f}")
    return session.finish("divergence", "agreement")


def on_policy(context: StageContext, spec: Distill) -> StageResult:
    """The student answers, the teachers say what they would have said."""
    sources = load_all(context, spec.prompts, fit=Fit.of(context, spec.model, spec.sampling.max_tokens))
    which = choose_teachers(spec, [p for source in sources for p in source])
    supply = PromptSupply(sources, [s.weight for s in spec.prompts], seed=context.seed)
    session = TrainingSession.start(context, spec.steps, answers=True)
    session.keep("supply", lambda: supply.state, supply.restore)
    teachers = load_teachers(context, session)
    pool = context.workers.rollout()
    pool.follow(session.learner)
    pool.load(ModelSpec.of(session.path, session.source), context.seed)
    pool.update_weights(session.first)
    growth = Truncation(limit=spec.alarm)
    session.keep("truncation", lambda: growth.shares, growth.restore)
    params = sampling_params(spec.sampling)
    for step in session.steps():
        started = time.monotonic()
        prompts, origin = numbered(supply.take(spec.prompts_per_step), 0)
        seed = derive_seed(context.seed, context.name, step)
        environments = context.workers.environment
        found = rollouts(pool, prompts, spec.group_size, params, seed=seed, environments=environments)
        groups = sorted(found, key=lambda g: g.prompt.id)
        pool.rest()
        generated = time.monotonic()
        metrics = completion_metrics(groups)
        check_failures(metrics, groups)
        samples = make_samples(groups, {name: which[row] for name, row in origin.items()})
        metrics |= learn(session, samples, step, teachers)
        metrics |= growth.after(context, metrics["truncated"], step)
        trained = time.monotonic()
        pool.update_weights(step + 1)
        metrics |= {
            "seconds_generate": generated - started,
            "seconds_train": trained - generated,
            "seconds_sync": time.monotonic() - trained,
        }
        session.end_step(step, metrics, f"divergence {metrics['divergence']:.4f}")
    pool.free()
    if teachers is not None:
        teachers.free()
    return session.finish("divergence", "agreement", "length")


def choose_teachers(spec: Distill, prompts: Sequence[Prompt]) -> dict[str, int]:
    """By the id of each prompt: the number of the first teacher whose `when` it fits.

    Raises:
        DataError: a prompt has no teacher.
    """
    chosen = {}
    for prompt in prompts:
        columns = row_columns(prompt)
        numbers = [i for i, teacher in enumerate(spec.teacher) if fits(teacher.when, columns)]
        if not numbers:
            raise DataError(
                f"prompt {prompt.id} has no teacher: no `when` fits it", fix="add a teacher without `when` at the end"
            )
        chosen[prompt.id] = numbers[0]
    return chosen


def load_teachers(context: StageContext, session: TrainingSession) -> TeacherPool | None:
    """Put the teachers beside the learner, or into actors of their own with their heads in the learner.

    Raises:
        HandoverError: a teacher has another tokenizer than the student.
    """
    spec: Distill = context.spec
    specs = []
    for teacher in spec.teacher:
        path, source = model_path(context.locations, teacher)
        session.check_partner(path, source.revision, f"the teacher {teacher.source}")
        specs.append(ModelSpec.of(path, source))
    pool = context.workers.teachers() if spec.divergence != "policy_gradient" else None
    for number, model in enumerate(specs):
        session.learner.load_frozen(model, teacher_name(number), head=pool is not None)
    if pool is not None:
        pool.load(specs)
    return pool


def make_samples(groups: Sequence[Group], which: Mapping[str, int]) -> list[Sample]:
    """What was sampled, as it was sampled; what was injected, or said by a tool, is context and no target."""
    return [
        replace(sequence(completion, number), teacher=which[group.prompt.id])
        for number, group in enumerate(groups)
        for completion in group.completions
        if not completion.failure
    ]


def learn(
    session: TrainingSession, samples: Sequence[Sample], step: int, teachers: TeacherPool | None
) -> dict[str, float]:
    """One optimizer step towards the teachers; its metrics."""
    spec: Distill = session.context.spec
    learner, tokens = session.learner, spec.micro_tokens
    if spec.divergence == "policy_gradient":
        return by_samples(session, samples, step)
    loss = DivergenceLoss(kind=spec.divergence, beta=spec.beta, top_k=spec.top_k, support=spec.support)
    return in_places(learner.step(samples, loss, step=step, micro_tokens=tokens, teachers=teachers))


def by_samples(session: TrainingSession, samples: Sequence[Sample], step: int) -> dict[str, float]:
    """A step by the sampled tokens alone: log teacher - log student as each token's advantage."""
    spec: Distill = session.context.spec
    told: list[Sample] = []
    for number in sorted({s.teacher for s in samples}):
        mine = [replace(s, teacher=0) for s in samples if s.teacher == number]
        told += guided(
            mine, session.learner, teacher_name(number), weight=1.0, bound=BOUND, micro_tokens=spec.micro_tokens
        )
    loss = PolicyLoss(temperature=spec.sampling.temperature)
    metrics = session.learner.step(told, loss, step=step, micro_tokens=spec.micro_tokens)
    tokens = np.concatenate([s.token_advantages[s.loss_mask > 0] for s in told if s.token_advantages is not None])
    return metrics | {"divergence": -float(tokens.mean())}


def check_failures(metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
    """Raises RewardError if an environment failed too many of the step's episodes."""
    if metrics.get("environment_failure_rate", 0.0) > MAX_FAILURES:
        failure = next(c.failure for g in groups for c in g.completions if c.failure)
        raise RewardError(f"more than {MAX_FAILURES:.0%} of a step's episodes failed; the first:\n{failure}")


def in_places(metrics: Mapping[str, float]) -> dict[str, float]:
    """The step's metrics, those by place in the completion as means over the targets that stand there."""
    found = {name: value for name, value in metrics.items() if "_at/" not in name}
    for start in PLACES:
        share = metrics[f"targets_at/{start}"]
        if share > 0:
            found |= {f"{n}_at/{start}": metrics[f"{n}_at/{start}"] / share for n in ("divergence", "agreement")}
    return found


@dataclass(kw_only=True)
class Truncation:
    """Watches for students that never end: a known way in which distillation fails (StableOPD, 2604.08527)."""

    limit: float
    shares: list[float] = field(default_factory=list)
    warned: bool = False

    def restore(self, shares: Sequence[float]) -> None:
        """Go on from a checkpoint."""
        self.shares = list(shares)

    def after(self, context: StageContext, truncated: float, step: int) -> dict[str, float]:
        """Take a step's share of truncated answers; warn once if it rose by the limit since the beginning."""
        self.shares.append(truncated)
        if len(self.shares) <= 2 * BEGINNING:
            return {}
        rise = float(np.mean(self.shares[-BEGINNING:]) - np.mean(self.shares[:BEGINNING]))
        high = rise > self.limit
        if high and not self.warned:
            context.say(
                f"{context.name}: warning: at step {step + 1} {rise:.0%} more answers are cut at max_tokens than at "
                "the start: teacher and student may end their turns in different ways, or the budget is short"
            )
        self.warned = high
        return {"truncation_rise": rise, "truncation_alarm": float(high)}
