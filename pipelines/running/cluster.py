"""The run's actors over Ray: started on first use, kept for the whole run, ended with it.

Embedded by default: a Ray of our own on the loopback, without dashboard, that ends with the command. With
`cluster.address` or RAY_ADDRESS the run joins a cluster that somebody else keeps.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.configs.schema import Cluster, EnvironmentUse, RewardUse
from posttrain.errors import RunError

if TYPE_CHECKING:
    from posttrain.rewards.environments.client import EnvironmentPool
    from posttrain.rewards.mixture.mix import Scorer
    from posttrain.sandbox.pool import SandboxPool
    from posttrain.stages.actors.gpus import Gpus
    from posttrain.stages.actors.shard_pool import ShardPool
    from posttrain.stages.learner.ranks import Learner
    from posttrain.stages.learner.teachers import TeacherPool
    from posttrain.stages.models.locations import Locations
    from posttrain.stages.rollout.pool import RolloutPool
    from posttrain.stages.serving.resident_models import ModelActors, RunHost

FORWARDED = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "CUDA_", "NCCL_", "OMP_", "POSTTRAIN_")
"""Environment variables that actors on other nodes need too, by prefix."""

_NOT_FORWARDED = ("TOKEN", "KEY", "SECRET", "PASSWORD")
_NODE_CHECK_S = 60.0


class ClusterWorkers:
    """Implements `stages.context.Workers`. Nothing is imported or started before a stage asks for it."""

    def __init__(self, cluster: Cluster, recipe_dir: Path, run_dir: Path) -> None:
        address = cluster.address or os.environ.get("RAY_ADDRESS")
        self._cluster = cluster.model_copy(update={"address": address})  # actors meet on other ports on a cluster
        self._recipe_dir, self._run_dir = recipe_dir, run_dir
        if not address:
            # Else Ray turns 127.0.0.1 into the host's address and listens on all interfaces. It is read when ray
            # is imported, which stages do: so here, and not in `_start`.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        self._started = False
        self._scratch: str | None = None
        self._learner: Learner | None = None
        self._rollout: RolloutPool | None = None
        self._teachers: TeacherPool | None = None
        self._sandbox: SandboxPool | None = None
        self._models: ModelActors | None = None
        self._shared: Gpus | None = None
        self._environments: dict[str, EnvironmentPool] = {}

    @property
    def started(self) -> bool:
        """Whether Ray was started or joined."""
        return self._started

    def learner(self) -> Learner:
        """The learner's ranks."""
        if self._learner is None:
            gpus = self._gpus()
            from posttrain.stages.learner.ranks import Learner

            self._learner = Learner(self._cluster, gpus)
        return self._learner

    def rollout(self) -> RolloutPool:
        """The rollout workers."""
        if self._rollout is None:
            gpus = self._gpus()
            from posttrain.stages.rollout.pool import RolloutPool

            self._rollout = RolloutPool(self._cluster, gpus)
        return self._rollout

    def teachers(self) -> TeacherPool | None:
        """The actors that teachers stand in; None where they stand with the learner."""
        if self._teachers is None and self._cluster.teacher.workers:
            gpus = self._gpus()
            from posttrain.stages.learner.teachers import TeacherPool

            self._teachers = TeacherPool(self._cluster, gpus)
        return self._teachers

    def scorer(self, uses: tuple[RewardUse, ...], locations: Locations) -> Scorer:
        """A scorer for these rewards, whose models are found by `locations`; the caller closes it."""
        from posttrain.pipelines.preflight.sandbox_checks import needs_sandbox
        from posttrain.rewards.mixture.mix import Scorer

        judge = self._judge() if needs_sandbox(uses) else None
        models = self._host(locations) if any(use.judge or use.model for use in uses) else None
        return Scorer(uses, recipe_dir=self._recipe_dir, judge=judge, models=models)

    def _host(self, locations: Locations) -> RunHost:
        from posttrain.stages.serving.resident_models import ModelActors, RunHost

        if self._models is None:
            self._models = ModelActors(self._cluster, self._gpus)
        return RunHost(self._models, locations)

    def environment(self, use: EnvironmentUse) -> EnvironmentPool:
        """The processes of an environment, kept for the whole run."""
        from posttrain.rewards.environments.client import EnvironmentPool

        name = use.model_dump_json()
        if name not in self._environments:
            self._environments[name] = EnvironmentPool(use, self._recipe_dir, self._cluster.sandbox.min_tier)
        return self._environments[name]

    def shards(self) -> ShardPool:
        """Processes that work on shards of data, an actor a core; they end with the `with` block."""
        from posttrain.stages.actors.shard_pool import RayShards

        return RayShards(self._start, len(os.sched_getaffinity(0)))

    def _judge(self) -> SandboxPool:
        if self._sandbox is None:
            self._start()
            from posttrain.sandbox.pool import SandboxPool

            settings = self._cluster.sandbox
            self._sandbox = SandboxPool(
                settings.workers, settings.min_tier, preload=settings.preload, languages=settings.languages
            )
        return self._sandbox

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        for environment in self._environments.values():
            environment.close()
        self._environments = {}
        if not self._started:
            return
        import ray

        for group in (self._learner, self._rollout, self._teachers, self._sandbox, self._models, self._shared):
            if group is not None:
                group.close()
        self._learner = self._rollout = self._teachers = self._sandbox = self._models = self._shared = None
        ray.shutdown()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._started = False

    def _gpus(self) -> Gpus:
        """Who stands on which GPU; Ray is up."""
        self._start()
        from posttrain.stages.actors.gpus import Gpus

        self._shared = self._shared or Gpus(self._cluster)
        return self._shared

    def _start(self) -> None:
        if self._started:
            return
        address = self._cluster.address
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        # ray.init puts in a handler of SIGTERM that exits; a run that is told to stop must save first.
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**(self._join(address) if address else self._embedded()))
        except Exception as error:
            what = f"Ray didn't start: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            fix = f"is the cluster at {address} up?" if address else "see `posttrain doctor`"
            raise RunError(what, fix=fix) from error
        finally:
            if callable(before):
                signal.signal(signal.SIGTERM, before)
        self._started = True
        if address:
            self._check_nodes()

    def _embedded(self) -> dict[str, Any]:
        # Unix sockets below this folder have names of up to 107 bytes, so it must be short.
        self._scratch = tempfile.mkdtemp(prefix="pt-", dir="/tmp")
        cluster = self._cluster
        actors = cluster.learner.workers + cluster.rollout.workers + cluster.sandbox.workers + cluster.teacher.workers
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {
            "address": "local",  # without it, ray.init joins whatever Ray runs on this machine
            "num_cpus": max(os.cpu_count() or 1, actors + 2),
            "object_store_memory": min(max(memory // 16, 256 << 20), 16 << 30),  # weights cross in it
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": self._scratch,
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "namespace": "posttrain",
            # Ray's own default is 15: the actors are what this command is for. The sandbox lowers itself.
            "_system_config": {"worker_niceness": 0},
        }

    def _join(self, address: str) -> dict[str, Any]:
        variables = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(FORWARDED) and not any(word in name for word in _NOT_FORWARDED)
        }
        return {
            "address": address,
            "runtime_env": {
                "env_vars": variables,
                "working_dir": str(self._recipe_dir),  # reward files that the recipe names by path
                "excludes": ["runs", ".git", ".venv", "*.parquet", "*.safetensors"],
            },
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "namespace": "posttrain",
        }

    def _check_nodes(self) -> None:
        """Every node must see the run folder: artifacts and checkpoints cross by it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        folder = str(self._run_dir.resolve())
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        probe = ray.remote(num_cpus=0)(os.path.isdir)
        answers = {
            name: probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)).remote(
                folder
            )
            for node, name in nodes.items()
        }
        blind = [name for name, seen in answers.items() if not ray.get(seen, timeout=_NODE_CHECK_S)]
        if blind:
            what = f"the nodes {', '.join(blind)} don't see {folder}"
            raise RunError(what, fix="put the run folder on storage that all nodes mount")


def ray_version() -> str:
    """The version of the Ray that a run would use."""
    import ray

    return str(ray.__version__)
