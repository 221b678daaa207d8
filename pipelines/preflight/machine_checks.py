"""What this host must have: vLLM, GPUs, cores."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Set
from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.nodes.declaration import Actor
from posttrain.configs.nodes.machine import Actors, gpus_of
from posttrain.configs.schema import Cluster
from posttrain.errors import InputError

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan


_CROWD = 4
"""Workers a core that a test of many ranks may want."""


def check_machine(loaded: LoadedRecipe, plan: Plan) -> None:
    """Refuse what this host lacks, where it is the one that runs the stages: vLLM, GPUs, cores. Raises InputError."""
    cluster = loaded.recipe.cluster
    if not plan.pending or cluster.address or os.environ.get("RAY_ADDRESS"):
        return
    if cluster.rollout.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError(
            "engine vllm: vLLM isn't installed", where=loaded.where(("cluster", "rollout", "engine")),
            fix="pip install 'posttrain[vllm]', or say engine: transformers",
        )  # fmt: skip
    groups = _groups(cluster, {actor for stage in plan.pending for actor in stage.node.declaration.actors})
    if needed := gpus_of(list(groups.values())):
        import torch

        if needed > (there := torch.cuda.device_count()):
            name = next(name for name, group in groups.items() if group.gpus)
            raise InputError(
                f"{needed} GPUs are asked for, and there are {there} here",
                where=loaded.where(("cluster", name, "gpus")),
                fix="lower `workers` or `gpus`, or name a cluster.address; CUDA_VISIBLE_DEVICES may hide some",
            )
    cores = os.cpu_count() or 1
    for name, group in groups.items():
        if not group.gpus and group.workers > _CROWD * cores:
            raise InputError(
                f"{group.workers} workers without a GPU are to share {cores} cores",
                where=loaded.where(("cluster", name, "workers")), fix="lower `workers`, or give them GPUs: gpus",
            )  # fmt: skip


def _groups(cluster: Cluster, actors: Set[Actor]) -> dict[str, Actors]:
    """The actors that stages take, by their name in `cluster`."""
    known: dict[Actor, Actors] = {"learner": cluster.learner, "rollout": cluster.rollout, "teacher": cluster.teacher}
    return {name: group for name, group in known.items() if name in actors}
