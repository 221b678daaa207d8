"""A training stage's life around its loop: load or resume, checkpoint, stop when told, export.

session = TrainingSession.start(context)
for step in session.steps():
    ...
    session.end_step(step, metrics)
return session.finish()
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.configs.schema import ModelSource, TrainingStage
from posttrain.errors import RunError, Stopped
from posttrain.folders import whole_folder
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.learner.rank.memory import PEAK
from posttrain.stages.learner.ranks import Learner
from posttrain.stages.models.chat import ChatFormat, check_handover, open_chat
from posttrain.stages.models.locations import model_path
from posttrain.stages.models.model_files import ModelSpec

STATE = "state.json"


@dataclass(kw_only=True)
class TrainingSession:
    """One stage's learner, its tokenizer and its checkpoints."""

    context: StageContext
    learner: Learner
    chat: ChatFormat
    path: str
    source: ModelSource
    total: int
    """Steps of the whole stage."""
    first: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    """What this session goes on from."""
    skipped: int = 0
    """Steps in a row that changed nothing."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last step's."""
    trained: int = 0
    """Steps of this session that had something to train on."""
    _states: dict[str, Callable[[], Any]] = field(default_factory=dict)
    _files: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    _restored: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, context: StageContext, optimizer_steps: int, *, answers: bool = False) -> TrainingSession:
        """Load the stage's model; continue from the last whole checkpoint if there is one.

        `answers`: the model will answer, so the rollout workers' processes start beside the learner's.
        """
        spec: TrainingStage = context.spec
        path, source = model_path(context.locations, spec.model)
        learner = context.workers.learner()
        if answers:
            context.workers.rollout()
        learner.load(
            ModelSpec.of(path, source, spec.lora), spec.optimizer, total_steps=optimizer_steps, seed=context.seed
        )
        chat = open_chat(path, source.revision)
        session = cls(context=context, learner=learner, chat=chat, path=path, source=source, total=spec.steps)
        checkpoint = last_checkpoint(context.dir)
        if checkpoint is not None:
            learner.restore(checkpoint)
            saved = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            session.first, session.totals, session.checkpoint = saved["step"], saved["totals"], checkpoint
            session._restored, session.skipped = saved.get("states", {}), saved.get("skipped", 0)
            session.metrics = saved.get("metrics", {})
            context.say(f"{context.name}: resumed at step {session.first}")
        context.metrics.cut(session.first)
        return session

    def check_partner(self, path: str, revision: str | None, name: str) -> None:
        """Refuse a model (a teacher) that doesn't share this one's tokenizer.

        Raises:
            HandoverError: what differs, on both sides.
        """
        check_handover(self.chat.fingerprint(), open_chat(path, revision).fingerprint(), self.context.name, name)

    def keep(self, name: str, state: Callable[[], Any], restore: Callable[[Any], None]) -> None:
        """Have checkpoints hold `state()`, plain JSON; restores it now if this session goes on from one."""
        self._states[name] = state
        if name in self._restored:
            restore(self._restored[name])

    def keep_file(self, name: str, write: Callable[[Path], None], read: Callable[[Path], None]) -> None:
        """Have checkpoints hold the file that `write` writes; reads it now if this session goes on from one."""
        self._files[name] = write
        if self.checkpoint is not None and (self.checkpoint / name).exists():
            read(self.checkpoint / name)

    def settle(self, total: int) -> None:
        """Take so many steps, one of the optimizer each, in place of the recipe's: some are known with the rows."""
        self.total = self.learner.total_steps = total

    def steps(self) -> Iterator[int]:
        """The steps still to do."""
        self.context.progress.start(self.total, self.first)
        yield from range(self.first, self.total)

    def end_step(self, step: int, metrics: Mapping[str, float], note: str = "") -> None:
        """Log the step; save if it's time; stop if told to.

        Raises:
            Stopped: a stop was requested; a checkpoint is saved.
            RunError: `max_skipped` steps in a row had a loss or gradient that isn't finite.
        """
        context, spec = self.context, self.context.spec
        for name in ("tokens", "generated_tokens"):
            self.totals[name] = self.totals.get(name, 0.0) + metrics.get(name, 0.0)
        if PEAK in metrics:
            self.totals[PEAK] = max(self.totals.get(PEAK, 0.0), metrics[PEAK])
        self.metrics = dict(metrics)
        self.trained += not metrics.get("empty_step")
        context.metrics.write(step + 1, metrics)
        self._count_skipped(step, metrics)
        context.progress.advance(1, note)
        stop = context.stop_requested() and step + 1 < self.total
        last = step + 1 == self.total  # kept too, where there are checkpoints: more steps may be asked for later
        if stop or (spec.checkpoint_every and (last or (step + 1) % spec.checkpoint_every == 0)):
            self._save(step + 1)
        if stop:
            raise Stopped(f"{context.name}: saved at step {step + 1} of {self.total}", fix="run the same command again")

    def _count_skipped(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics.get("empty_step"):
            return
        share = metrics.get("skipped_step", 0.0)
        if share < 1:
            self.skipped = 0
            if share:
                where = f"{self.context.name}: step {step + 1}"
                self.context.say(f"{where}: {share:.0%} of its minibatches had no finite gradient and were left out")
            return
        self.skipped += 1
        where = f"{self.context.name}: step {step + 1}"
        if self.skipped < self.context.spec.max_skipped:
            self.context.say(f"{where}: loss or gradient isn't finite; no weight was changed")
            return
        last = last_checkpoint(self.context.dir)
        raise RunError(
            f"{where}: loss or gradient isn't finite, {self.skipped} steps in a row",
            where=str(last) if last else "",
            fix="lower the learning rate and run again: "
            + (f"it goes on from {last.name}" if last else "there is no checkpoint yet (see checkpoint_every)"),
        )

    def _save(self, step: int) -> None:
        folder = self.context.dir / "checkpoints"
        with whole_folder(folder / f"step-{step:06d}") as temporary:
            self.learner.save(temporary)
            for name, write in self._files.items():
                write(temporary / name)
            states = {name: state() for name, state in self._states.items()}
            state = {"step": step, "totals": self.totals, "ranks": self.learner.ranks, "states": states}
            state |= {"skipped": self.skipped, "metrics": self.metrics}
            (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        whole = sorted(folder.glob("step-*"))
        for old in whole[: -self.context.spec.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self, *last: str, **more: float) -> StageResult:
        """Export the model as the stage's artifact and free the learner. The stage's metrics are those of its `last`
        step that are named (made before this session, where it went on from there), and `more`.
        """
        self.learner.export(self.context.artifact_dir, self.path)
        sizes = self.learner.sizes
        self.learner.free()
        provenance = {**self.chat.fingerprint(), "parent": self.context.spec.model.source, "seed": self.context.seed}
        found = {name: self.metrics[name] for name in last if name in self.metrics}
        return StageResult(kind="model", metrics={**found, **more, **sizes, **self.totals}, provenance=provenance)


def last_checkpoint(stage_dir: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones have another name."""
    whole = sorted((stage_dir / "checkpoints").glob("step-*"))
    return whole[-1] if whole else None
