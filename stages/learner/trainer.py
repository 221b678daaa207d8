"""The learner's part of an RL step: from scored groups to optimizer steps, with what is remembered in between."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from posttrain.configs.schema import Grpo
from posttrain.stages.context import StageContext
from posttrain.stages.data.load import derive_seed
from posttrain.stages.learner.experience import Experience, experience, split_like
from posttrain.stages.learner.losses.entropy import EntropyBand, hold_back
from posttrain.stages.learner.losses.losses import PolicyLoss
from posttrain.stages.learner.losses.off_policy import Importance
from posttrain.stages.learner.rank.frozen_names import REFERENCE, teacher_name
from posttrain.stages.learner.rank.memory import most
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.models.locations import model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.types import Sample, ScoredGroup

ROUNDING = 1e-6
"""An advantage below it is a mean's rounding."""
SUMS = ("tokens", "packed_tokens")
"""Of a step's minibatches these are added up; everything else is averaged."""


class PolicyTrainer:
    """Trains on scored groups: the frozen models, the entropy's weight and the minibatches of an RL stage."""

    def __init__(self, context: StageContext, session: TrainingSession) -> None:
        self._context, self._session = context, session
        self._spec: Grpo = context.spec
        self._band = None if self._spec.entropy is None else EntropyBand(control=self._spec.entropy)
        self._alarmed = self._flat = False
        if self._band is not None:
            session.keep("entropy", self._band.state, self._band.restore)
        self._load_frozen()

    def learn(self, scored: Sequence[ScoredGroup], step: int, weights: Mapping[str, float]) -> Experience:
        """Train on the step's groups: what they gave, with the metrics of it all."""
        spec, began = self._spec, time.monotonic()
        seed = derive_seed(self._context.seed, self._context.name, step)
        found = experience(scored, spec, seed, weights=weights, learner=self._session.learner)
        samples, metrics = found.samples, dict(found.metrics)
        if not samples:
            why = why_nothing(scored, cut=spec.mask_truncated)
            self._context.say(f"{self._context.name}: step {step + 1} has nothing to train on: {why}")
            return replace(found, metrics=metrics | {"loss": 0.0, "empty_step": 1.0})
        self._say_if_flat(scored, samples, step)
        if spec.covariance is not None:
            samples, held = hold_back(samples, spec.covariance, seed)
            metrics["held_back_tokens"] = float(held)
        metrics |= self._minibatches(samples, step)
        metrics |= {"seconds_train": time.monotonic() - began}
        self._sound_alarm(metrics, step)
        return replace(found, metrics=metrics)

    def after(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Between two steps: move the entropy's weight, refresh the reference."""
        spec = self._spec
        found: dict[str, float] = {}
        if self._band is not None and np.isfinite(metrics.get("entropy", np.nan)):
            self._band.update(metrics["entropy"])
            found["entropy_weight"] = self._band.weight
        if spec.kl.weight and spec.kl.refresh_every and (step + 1) % spec.kl.refresh_every == 0:
            self._session.learner.refresh(REFERENCE)
        return found

    def _load_frozen(self) -> None:
        spec, session = self._spec, self._session
        if spec.teacher is not None:
            path, source = model_path(self._context.locations, spec.teacher)
            session.check_partner(path, source.revision, f"the teacher {spec.teacher.source}")
            session.learner.load_frozen(ModelSpec.of(path, source), teacher_name())
        if spec.kl.weight:
            session.learner.load_frozen(ModelSpec.of(session.path, session.source), REFERENCE)
            if spec.kl.refresh_every:
                session.keep_file(
                    "reference.safetensors",
                    lambda path: session.learner.save_frozen(REFERENCE, path),
                    lambda path: session.learner.restore_frozen(REFERENCE, path),
                )

    def _minibatches(self, samples: Sequence[Sample], step: int) -> dict[str, float]:
        """The optimizer steps on one rollout batch; whole groups stay together."""
        spec, learner = self._spec, self._session.learner
        groups = sorted({s.group for s in samples})
        parts = [
            [s for s in samples if s.group in set(part.tolist())]
            for part in np.array_split(groups, min(spec.minibatches, len(groups)))
        ]
        loss = self._loss()
        if spec.importance.old == "learner":
            parts = [parts[0], *self._old(parts[1:])]
        results = [
            learner.step(
                part, loss, step=step * spec.minibatches + number, micro_tokens=spec.micro_tokens,
                aggregate=spec.aggregate, longest=spec.sampling.max_tokens,
            )
            for number, part in enumerate(parts)
        ]  # fmt: skip
        whole = [r for r in results if not r["skipped_step"]] or results
        metrics = {k: float(np.mean([r[k] for r in whole])) for k in results[0] if k not in (*SUMS, "targets")}
        metrics["importance_ess"] = metrics["importance"] ** 2 / max(metrics.pop("importance_square"), 1e-12)
        metrics |= most(results)
        metrics["skipped_step"] = float(np.mean([r["skipped_step"] for r in results]))
        return metrics | {"lr": results[-1]["lr"], **{name: sum(r[name] for r in results) for name in SUMS}}

    def _old(self, parts: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        """The samples with the learner's log-probabilities of before the step.

        Only for minibatches after the first: for that one the present policy is the one of before.
        """
        flat = [s for part in parts for s in part]
        values = self._session.learner.logprobs(
            flat, micro_tokens=self._spec.micro_tokens, temperature=self._spec.sampling.temperature
        )
        return split_like([replace(s, old_logprobs=old) for s, old in zip(flat, values, strict=True)], parts)

    def _loss(self) -> PolicyLoss:
        spec = self._spec
        return PolicyLoss(
            surrogate=spec.surrogate, clip_low=spec.clip[0], clip_high=spec.clip[1], dual_clip=spec.dual_clip,
            cap=spec.cap, tau=spec.tau, kl=spec.kl.weight if spec.kl.placed == "loss" else 0.0,
            kl_estimator=spec.kl.estimator, entropy=0.0 if self._band is None else self._band.weight,
            bypass=spec.importance.old == "engine",
            importance=Importance(
                mode=spec.importance.mode, cap=spec.importance.cap, floor=spec.importance.floor
            ),
            drop_stale=spec.importance.drop_stale, temperature=spec.sampling.temperature,
        )  # fmt: skip

    def _say_if_flat(self, scored: Sequence[ScoredGroup], samples: Sequence[Sample], step: int) -> None:
        """Say that rewards teach nothing, once, and again only after they had."""
        flat = all(abs(sample.advantage) < ROUNDING for sample in samples)
        if flat and not self._flat:
            answers = [completion for g in scored for completion in g.group.completions]
            cut = sum(completion.finish_reason == "length" for completion in answers)
            self._context.say(
                f"{self._context.name}: warning: step {step + 1} learns nothing from rewards: all of a group's answers "
                f"have the same; {cut} of {len(answers)} were cut at max_tokens {self._spec.sampling.max_tokens}"
            )
        self._flat = flat

    def _sound_alarm(self, metrics: dict[str, float], step: int) -> None:
        """Say once that engine and learner drifted apart, and again only after they had come together."""
        limit = self._spec.importance.alarm
        high = metrics.get("mismatch_k3", 0.0) > limit
        if high and not self._alarmed:
            self._context.say(
                f"{self._context.name}: warning: engine and learner disagree at step {step + 1}: mismatch KL "
                f"{metrics['mismatch_k3']:.2g} nats a token, over {limit:g}; see mismatch_abs and stale_versions"
            )
        self._alarmed = high
        metrics["mismatch_alarm"] = float(high)


def why_nothing(scored: Sequence[ScoredGroup], *, cut: bool) -> str:
    """What became of a step's completions, of which none can be trained on. `cut`: those over the limit aren't."""
    pairs = [pair for g in scored for pair in zip(g.scores, g.group.completions, strict=True)]
    failed = [s for s, _ in pairs if s.status == "infra_error"]
    counts = {
        "couldn't be scored": len(failed),
        "have no reward that applies to them": sum(s.status == "not_applicable" for s, _ in pairs),
        "were cut at max_tokens": sum(cut and s.status == "ok" and c.finish_reason == "length" for s, c in pairs),
    }
    left = len(pairs) - sum(counts.values())
    counts["score as all others of their group"] = left
    told = [f"{count} {what}" for what, count in counts.items() if count]
    first = f"; the first failure: {failed[0].detail.strip().splitlines()[-1]}" if failed and failed[0].detail else ""
    return f"of {len(pairs)} completions {', '.join(told)}{first}"
