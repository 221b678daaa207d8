"""What two resolved recipes say differently, by dotted path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from posttrain.pipelines.graph.keys import NOT_SEMANTIC

ABSENT = "(not there)"
"""Stands for a value that one side lacks; None is a value."""

_SAY_NOTHING = frozenset({"name", "description", "cluster", "logging", "thresholds"})
"""What stands at the top of a recipe and enters no stage's key."""

_NAMES = ("name", "use", "from")
"""What an item of a list is told by, in this order."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One place where two recipes differ.

    Difference(path="stages.rl.optimizer.lr", a=1e-06, b=2e-06, decides=True)
    """

    path: str
    """As an override writes it; an item that stands elsewhere in the other list goes by name: `suites.[sums].k`."""
    a: Any
    b: Any
    decides: bool = True
    """Whether it enters a stage's key, and so can change a result."""


def recipe_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """All differences of two resolved recipes. A stage that only one has is one difference, `stages.NAME`."""
    found = list(differences(a, b))
    for name in _only_one(a.get("stages", {}), b.get("stages", {})):
        path = f"stages.{name}"
        kinds = [ABSENT if name not in side.get("stages", {}) else side["stages"][name]["kind"] for side in (a, b)]
        found = [one for one in found if not f"{one.path}.".startswith(f"{path}.")]
        found.append(Difference(path=path, a=kinds[0], b=kinds[1]))
    return [Difference(path=one.path, a=one.a, b=one.b, decides=_decides(one.path)) for one in found]


def differences(a: Any, b: Any, path: str = "") -> Iterator[Difference]:
    """Differences of two pieces of plain data, leaf by leaf. What is null on one side may lack on the other."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            # Plain data of another version may lack a field that is null today.
            yield from differences(_get(a, b, key), _get(b, a, key), f"{path}.{key}" if path else str(key))
    elif _is_list_of_mappings(a) and _is_list_of_mappings(b):
        for key, one, other in _pairs(a, b):
            yield from differences(one, other, f"{path}.{key}" if path else key)
    elif a != b:
        yield Difference(path=path, a=a, b=b)


def show_value(value: Any) -> str:
    """A value on one line: words as they are, all else as JSON; mappings and lists without their nulls."""
    return value if isinstance(value, str) else json.dumps(_without_nulls(value), ensure_ascii=False)


def _get(side: Mapping[str, Any], other: Mapping[str, Any], key: str) -> Any:
    if key in side:
        return side[key]
    return None if other[key] is None else ABSENT


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _pairs(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Items that belong together: by name where names tell all of them apart, else by place."""
    names = next((both for both in (_names(a, b, field) for field in _NAMES) if both), None)
    if names is None or len(a) == len(b) == 1:
        for at, (one, other) in enumerate(zip_longest(a, b, fillvalue=ABSENT)):
            yield str(at), one, other
        return
    for name in dict.fromkeys((*names[0], *names[1])):
        here, there = names[0].get(name), names[1].get(name)
        one = ABSENT if here is None else a[here]
        other = ABSENT if there is None else b[there]
        yield str(here) if here == there else f"[{name}]", one, other


def _names(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], field: str
) -> tuple[dict[str, int], dict[str, int]] | None:
    """The places of all items by their `field`; None unless each has one of its own."""
    if any(not isinstance(item.get(field), str) for item in (*a, *b)):
        return None
    here, there = ({item[field]: at for at, item in enumerate(side)} for side in (a, b))
    return (here, there) if len(here) == len(a) and len(there) == len(b) else None


def _only_one(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    counted = Counter((*a, *b))
    return [name for name in counted if counted[name] == 1]


def _decides(path: str) -> bool:
    parts = path.split(".")
    return parts[0] not in _SAY_NOTHING and not (parts[0] == "stages" and NOT_SEMANTIC.intersection(parts[2:3]))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
