"""A training stage's life around its loop: load or resume, checkpoint, stop when told, export.

session = TrainingSession.start(context)
for step in session.steps():
    ...
    session.end_step(step, metrics)
return session.finish()
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from posttrain.configs.schema import ModelSource, TrainingStage
from posttrain.errors import Stopped
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.chat import ChatFormat, check_handover, open_chat
from posttrain.stages.data.models import model_path
from posttrain.stages.learner.group import Learner
from posttrain.stages.learner.modelfiles import ModelSpec

STATE = "state.json"


@dataclass(kw_only=True)
class TrainingSession:
    """One stage's learner, its tokenizer and its checkpoints."""

    context: StageContext
    learner: Learner
    chat: ChatFormat
    path: str
    source: ModelSource
    first: int = 0
    totals: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, context: StageContext, optimizer_steps: int) -> TrainingSession:
        """Load the stage's model; continue from the last whole checkpoint if there is one."""
        spec: TrainingStage = context.spec
        path, source = model_path(context, spec.model)
        learner = context.workers.learner()
        learner.load(
            ModelSpec.of(path, source, spec.lora), spec.optimizer, total_steps=optimizer_steps, seed=context.seed
        )
        chat = open_chat(path, source.revision)
        session = cls(context=context, learner=learner, chat=chat, path=path, source=source)
        checkpoint = last_checkpoint(context.dir)
        if checkpoint is not None:
            learner.restore(checkpoint)
            saved = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            session.first, session.totals = saved["step"], saved["totals"]
            context.say(f"{context.name}: resumed at step {session.first}")
        context.metrics.cut(session.first)
        return session

    def check_partner(self, path: str, revision: str | None, name: str) -> None:
        """Refuse a model (a teacher) that doesn't share this one's tokenizer.

        Raises:
            HandoverError: what differs, on both sides.
        """
        check_handover(self.chat.fingerprint(), open_chat(path, revision).fingerprint(), self.context.name, name)

    def steps(self) -> Iterator[int]:
        """The steps still to do."""
        total = self.context.spec.steps
        self.context.progress.start(total, self.first)
        yield from range(self.first, total)

    def end_step(self, step: int, metrics: Mapping[str, float], note: str = "") -> None:
        """Log the step; save if it's time; stop if told to.

        Raises:
            Stopped: a stop was requested; a checkpoint is saved.
        """
        context, spec = self.context, self.context.spec
        for name in ("tokens", "generated_tokens"):
            self.totals[name] = self.totals.get(name, 0.0) + metrics.get(name, 0.0)
        context.metrics.write(step + 1, metrics)
        context.progress.advance(1, note)
        stop = context.stop_requested() and step + 1 < spec.steps
        last = step + 1 == spec.steps  # kept too, where there are checkpoints: more steps may be asked for later
        if stop or (spec.checkpoint_every and (last or (step + 1) % spec.checkpoint_every == 0)):
            self._save(step + 1)
        if stop:
            raise Stopped(f"{context.name}: saved at step {step + 1} of {spec.steps}", fix="run the same command again")

    def _save(self, step: int) -> None:
        folder = self.context.dir / "checkpoints"
        temporary = folder / f"tmp-{step:06d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        self.learner.save(temporary)
        state = {"step": step, "totals": self.totals, "ranks": self.learner.ranks}
        (temporary / STATE).write_text(json.dumps(state), encoding="utf-8")
        sync_tree(temporary)
        final = folder / f"step-{step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        _sync(folder)
        whole = sorted(folder.glob("step-*"))
        for old in whole[: -self.context.spec.keep_checkpoints]:
            shutil.rmtree(old)

    def finish(self, metrics: Mapping[str, float]) -> StageResult:
        """Export the model as the stage's artifact and free the learner."""
        self.learner.export(self.context.artifact_dir, self.path)
        sizes = self.learner.sizes | {name: gib for name, gib in self.learner.memory().items() if gib}
        self.learner.free()
        provenance = {**self.chat.fingerprint(), "parent": self.context.spec.model.source, "seed": self.context.seed}
        return StageResult(kind="model", metrics={**metrics, **sizes, **self.totals}, provenance=provenance)


def last_checkpoint(stage_dir: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones have another name."""
    whole = sorted((stage_dir / "checkpoints").glob("step-*"))
    return whole[-1] if whole else None


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
