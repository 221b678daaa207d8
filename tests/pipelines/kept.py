"""Real runs within the tests' process, whose actors stay for the next run: to start them takes most of a tiny run.

What a run's own processes do (they start, stop with it, outlive nothing) is tested where it is run as a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from posttrain.configs.schema import Cluster
from posttrain.pipelines.running.cluster import ClusterWorkers
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.serving.resident_models import ModelActors

CLUSTER = "{learner: {workers: 1, zero: 1, threads: 1}, rollout: {workers: 1, threads: 1}}"
"""What recipes say whose runs shall share actors."""


class KeptWorkers(ClusterWorkers):
    """The workers of a run on a Ray that is up already; those of equal settings are handed from run to run."""

    _all: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, cluster: Cluster, recipe_dir: Path, run_dir: Path) -> None:
        super().__init__(cluster, recipe_dir, run_dir)
        self._kept = self._all.setdefault(cluster.model_dump_json(), {})
        self._learner, self._rollout = self._kept.get("learner"), self._kept.get("rollout")
        self._models = self._kept.setdefault("models", ModelActors(cluster, lambda: Gpus(cluster)))

    def _start(self) -> None:
        """Nothing: Ray is up already, and other tests' too."""

    def close(self) -> None:
        """End what isn't kept; what is kept drops its models, as between two stages."""
        for environment in self._environments.values():
            environment.close()
        if self._sandbox is not None:
            self._sandbox.close()
        for name, group in (("learner", self._learner), ("rollout", self._rollout)):
            if group is not None:
                group.free()
                self._kept[name] = group

    @classmethod
    def end(cls) -> None:
        """End all that was kept."""
        for kept in cls._all.values():
            for group in kept.values():
                group.close()
        cls._all.clear()
