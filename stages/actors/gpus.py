"""Which GPU each actor gets.

Ray gives actors that ask for parts of GPUs as few GPUs as will hold them: two learner ranks with half a GPU each would
stand on one, where NCCL refuses them. Here actor i of every group that shares GPUs stands on GPU i: a rank, a rollout
worker and a teacher on each (a Ray placement group with one GPU a bundle).
"""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from posttrain.configs.schema import Cluster
from posttrain.errors import RunError

ROOM_TIMEOUT = 300.0
"""Seconds for GPUs to be had on a cluster of somebody else's, which may have to start nodes."""


class Gpus:
    """The GPUs of a run's groups of actors. One for all of them."""

    def __init__(self, cluster: Cluster) -> None:
        self._count = cluster.sharing.gpus
        self._spare = 1.0 - sum(cluster.sharing.parts)
        self._own = not cluster.address
        self._group: PlacementGroup | None = None

    def options(self, workers: int, gpus: float, *, held: bool = False) -> list[dict[str, Any]]:
        """For `actor.options`, one of each of `workers` actors with `gpus` GPUs.

        What is `held` beside the cluster's groups, a judge or a reward model, shares their GPUs if it fits on them.

        Raises:
            RunError: Ray doesn't have as many.
        """
        self._check(workers * gpus)
        shares = 0 < gpus < 1 and self._count > 1
        if held and shares:
            shares = workers <= self._count and gpus <= self._spare
            self._spare -= gpus if shares else 0
        if not shares:
            return [{"num_gpus": gpus}] * workers
        group = self._shared()
        places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i) for i in range(workers)]
        return [{"num_gpus": gpus, "scheduling_strategy": place} for place in places]

    def close(self) -> None:
        """Give the shared GPUs back; the actors on them have ended."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def _check(self, needed: float) -> None:
        known = ray.cluster_resources().get("GPU", 0.0)
        if self._own and needed > known:  # somebody else's cluster may grow
            raise RunError(
                f"{needed:g} GPUs are asked for, and Ray sees {known:g} here", where="cluster",
                fix="lower `workers` or `gpus`; `posttrain doctor` says which there are, and CUDA_VISIBLE_DEVICES may "
                "hide some",
            )  # fmt: skip

    def _shared(self) -> PlacementGroup:
        if self._group is None:
            self._check(self._count)
            group = placement_group([{"GPU": 1, "CPU": 1}] * self._count, strategy="PACK")
            if not group.wait(ROOM_TIMEOUT):
                remove_placement_group(group)
                free = ray.available_resources().get("GPU", 0.0)
                raise RunError(
                    f"{self._count} whole GPUs, whose parts actors are to share, weren't free within "
                    f"{ROOM_TIMEOUT:.0f} s: {free:g} are now",
                    where="cluster", fix="lower `workers`, or wait until others have left the cluster",
                )  # fmt: skip
            self._group = group
        return self._group
