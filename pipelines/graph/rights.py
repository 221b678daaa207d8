"""What each reward, tool and filter of a plan may do while it reads what a model wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from posttrain.pipelines.graph.dag import Node
from posttrain.rewards.mixture.confinement import FILTER, describe_environment, describe_reward


class Right(NamedTuple):
    """One function of one stage.

    >>> Right("rl", "reward", "math", "confined: no environment, no network, no files, no writes, no processes")
    """

    stage: str
    what: str
    """reward, tool or filter."""
    use: str
    may: str


def rights_of(nodes: Sequence[Node]) -> list[Right]:
    """The rights of every function that the stages name, each once per stage."""
    return list(dict.fromkeys(right for node in nodes for right in _of(node)))


def _of(node: Node) -> Iterator[Right]:
    for reward in node.rewards:
        yield Right(node.name, "reward", reward.use, describe_reward(reward))
    for environment in node.environments:
        yield Right(node.name, "tool", environment.use, describe_environment(environment))
    for use in node.declaration.filters:
        yield Right(node.name, "filter", use.use, FILTER)


def grouped(rights: Sequence[Right]) -> list[tuple[str, str]]:
    """(what they may do, the functions that may do it), in the order of the stages.

    >>> grouped([Right("a", "reward", "math", "confined"), Right("b", "reward", "format", "confined")])
    [('confined', 'reward math, format')]
    """
    by_right: dict[str, dict[str, list[str]]] = {}
    for right in rights:
        names = by_right.setdefault(right.may, {}).setdefault(right.what, [])
        if right.use not in names:
            names.append(right.use)
    return [
        (may, "; ".join(f"{what} {', '.join(names)}" for what, names in kinds.items()))
        for may, kinds in by_right.items()
    ]
