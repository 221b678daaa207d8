"""Who stands on which GPU. Ray believes in two, and places actors by that; nothing uses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.configs.schema import Cluster
from posttrain.errors import RunError
from posttrain.stages.actors import gpus
from posttrain.stages.actors.gpus import Gpus

HALVES = {"workers": 2, "gpus": 0.5}


class Standing:
    """Actors of all groups, started in the order in which a run starts them."""

    def __init__(self, **groups: Any) -> None:
        import ray

        self.cluster = Cluster.model_validate(groups)
        self.gpus = Gpus(self.cluster)
        self.actors: list[Any] = []
        self._remote = ray.remote(type("Actor", (), {"gpus": lambda _: ray.get_gpu_ids()}))

    def start(self, group: Any, *, held: bool = False) -> list[list[int]]:
        """The GPUs of each actor of a group."""
        import ray

        own = [
            self._remote.options(num_cpus=0, **place).remote()
            for place in self.gpus.options(group.workers, group.gpus, held=held)
        ]
        self.actors += own
        return ray.get([actor.gpus.remote() for actor in own], timeout=60)

    def end(self) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.gpus.close()


@pytest.fixture
def standing(ray_session: None) -> Iterator[Any]:
    made: list[Standing] = []

    def build(**groups: Any) -> Standing:
        made.append(Standing(**groups))
        return made[-1]

    yield build
    for one in made:
        one.end()


def test_each_rank_shares_a_gpu_of_its_own_with_a_worker(standing: Any) -> None:
    """Ray by itself puts both ranks on the first, where NCCL refuses them."""
    run = standing(learner=HALVES, rollout=HALVES)
    ranks, workers = run.start(run.cluster.learner), run.start(run.cluster.rollout)
    assert ranks == workers
    assert sorted(ranks) == [[0], [1]]


def test_a_judge_shares_those_gpus_where_it_fits(standing: Any) -> None:
    third = {"workers": 2, "gpus": 0.3}
    run = standing(learner=third, rollout=third)
    ranks, _ = run.start(run.cluster.learner), run.start(run.cluster.rollout)
    assert run.start(run.cluster.rollout, held=True) == ranks
    assert all("scheduling_strategy" not in place for place in run.gpus.options(2, 0.3, held=True))  # a fourth doesn't


def test_what_is_shared_is_given_back(standing: Any) -> None:
    for _ in range(2):
        run = standing(learner=HALVES, rollout={"workers": 1, "gpus": 0.5})
        assert len(run.start(run.cluster.learner)) == 2
        run.end()
        run.actors.clear()
    whole = standing(rollout={"workers": 2, "gpus": 1})
    assert sorted(whole.start(whole.cluster.rollout)) == [[0], [1]]


def test_one_of_each_shares_one_gpu_without_a_reservation(standing: Any) -> None:
    run = standing(learner={"gpus": 0.5}, rollout={"gpus": 0.5})
    assert run.start(run.cluster.learner) == run.start(run.cluster.rollout)


def test_more_gpus_than_there_are_are_refused_at_once(standing: Any) -> None:
    for groups in ({"learner": {"workers": 3, "gpus": 1}}, {"learner": {"workers": 3, "gpus": 0.5}}):
        run = standing(**groups)
        with pytest.raises(RunError, match=r"[23](\.5)? GPUs are asked for, and Ray sees 2 here"):
            run.start(run.cluster.learner)


def test_a_cluster_that_stays_full_is_given_up(standing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ROOM_TIMEOUT", 2.0)
    other = standing(rollout={"gpus": 1})
    other.start(other.cluster.rollout)
    run = standing(learner=HALVES, rollout=HALVES)
    with pytest.raises(RunError, match=r"2 whole GPUs, .* weren't free within 2 s"):
        run.start(run.cluster.learner)


def test_parts_that_do_not_fit_on_one_gpu_are_refused_by_the_recipe() -> None:
    with pytest.raises(ValidationError, match=r"0\.6 \+ 0\.5 of it, more than there is"):
        Cluster.model_validate({"learner": {"workers": 2, "gpus": 0.6}, "rollout": HALVES})
    Cluster.model_validate({"learner": {"workers": 2, "gpus": 0.6}, "rollout": {"workers": 2, "gpus": 0.4}})
