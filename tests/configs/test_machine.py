"""GPUs that groups of actors take together."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.configs.nodes.machine import gpus_of
from posttrain.configs.schema import Cluster


@pytest.mark.parametrize(
    ("learner", "rollout", "gpus"),
    [
        ({}, {}, 0),
        ({"gpus": 0.5}, {"gpus": 0.5}, 1),
        ({"gpus": 0.6}, {"gpus": 0.6}, 2),
        ({"gpus": 0.5, "workers": 2}, {"gpus": 0.5, "workers": 2}, 2),
        ({"gpus": 0.5, "workers": 3}, {"gpus": 0.5, "workers": 1}, 3),
        ({"gpus": 1, "workers": 4}, {"gpus": 2, "workers": 2}, 8),
        ({"gpus": 0.5, "workers": 2}, {"gpus": 1}, 3),
    ],
)
def test_parts_share_and_wholes_add_up(learner: dict[str, Any], rollout: dict[str, Any], gpus: int) -> None:
    cluster = Cluster.model_validate({"learner": learner, "rollout": rollout})
    assert gpus_of([cluster.learner, cluster.rollout]) == gpus
