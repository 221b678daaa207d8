"""What a stage is given and what it gives back. Pipelines build a `StageContext`; kinds read it.

A stage writes into its own folder only: metrics.jsonl, rollouts/, checkpoints/, and `artifact_dir`, a temporary
folder that the ledger checks, fsyncs and renames once the stage has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from posttrain.configs.schema import Cluster, EnvironmentUse, Logging, ModelSource, RewardUse
from posttrain.errors import Stopped
from posttrain.stages.models.locations import Locations

if TYPE_CHECKING:
    from posttrain.rewards.environments.client import EnvironmentPool
    from posttrain.rewards.mixture.mix import Scorer
    from posttrain.stages.actors.shard_pool import ShardPool
    from posttrain.stages.learner.ranks import Learner
    from posttrain.stages.learner.teachers import TeacherPool
    from posttrain.stages.rollout.pool import RolloutPool


class Workers(Protocol):
    """The run's actors, started on first use and kept for the whole run."""

    def learner(self) -> Learner: ...

    def rollout(self) -> RolloutPool: ...

    def teachers(self) -> TeacherPool | None:
        """The actors that teachers stand in; None where they stand with the learner."""
        ...

    def scorer(self, uses: tuple[RewardUse, ...], locations: Locations) -> Scorer:
        """A scorer for these rewards, whose models are found by `locations`; the caller closes it."""
        ...

    def environment(self, use: EnvironmentUse) -> EnvironmentPool:
        """The processes of an environment, kept for the whole run."""
        ...

    def shards(self) -> ShardPool:
        """Processes that work on shards of data, an actor a core; they end with the `with` block."""
        ...


class MetricLog(Protocol):
    """Writes metrics.jsonl (one line a step, flushed) and feeds the live view."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def cut(self, step: int) -> None:
        """Drop lines of steps after `step`: called on resume, so that nothing stands twice."""
        ...


class Progress(Protocol):
    """One progress bar."""

    def start(self, total: int, done: int = 0, unit: str = "step") -> None: ...

    def advance(self, n: int = 1, note: str = "") -> None: ...


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Everything a stage may read."""

    name: str
    spec: Any
    """The stage's node of the schema: of a packaged kind, or of one that the user brings."""
    seed: int
    key: str
    dir: Path
    """runs/<name>/<stage>"""
    artifact_dir: Path
    """An empty temporary folder; the stage fills it."""
    recipe_dir: Path
    """Relative paths in the recipe start here."""
    inputs: Mapping[str, Path]
    """Stage name -> its finished artifact folder, for each stage that this one names."""
    base: ModelSource | None
    cluster: Cluster
    logging: Logging
    workers: Workers
    metrics: MetricLog
    progress: Progress
    say: Callable[[str], None]
    """Prints one line for a person."""
    stop_requested: Callable[[], bool]
    """True once the run was told to stop: save a checkpoint and raise `Stopped`."""

    @property
    def locations(self) -> Locations:
        """Where the models and rows are that the stage names."""
        return Locations(recipe_dir=self.recipe_dir, inputs=self.inputs, base=self.base)

    def check_stop(self) -> None:
        """Between two batches of work. Raises Stopped if the run was told to stop."""
        if self.stop_requested():
            raise Stopped(f"{self.name}: stopped", fix="run the same command again")


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage left in `artifact_dir`."""

    kind: Literal["model", "data", "table"]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The stage's summary, shown by `posttrain status` and the report."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Goes into the manifest: chat-template hash, special and stop tokens, row counts, parents."""
