"""The domain of a query, and a balance of domains."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from posttrain.configs.schema import Domains
from posttrain.types import Prompt


def domain_of(prompt: Prompt, rules: Domains) -> str:
    """What the row's column says, else the domain most of whose words stand in the query; empty if none does."""
    named = prompt.domain if rules.column == "domain" else prompt.columns.get(rules.column)
    if named:
        return str(named)
    text = " ".join(str(m.get("content") or "") for m in prompt.messages if m.get("role") == "user").lower()
    found = {name: sum(_stands(word, text) for word in words) for name, words in rules.words.items()}
    best = max(found, key=lambda name: found[name], default="")
    return best if best and found[best] else ""


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", text) is not None


def over_the_balance(
    domains: Iterable[tuple[int, str]], hardness: Mapping[int, float], most: int | Literal["even"] | None
) -> set[int]:
    """The rows, of places with their domains, that are too many of their domain; the hardest stay, of equals the first.

    `hardness` is a pass rate: the lower, the harder. Rows without a domain are one domain of their own.
    """
    if most is None:
        return set()
    by_domain: dict[str, list[int]] = defaultdict(list)
    for place, domain in domains:
        by_domain[domain].append(place)
    if not by_domain:
        return set()
    each = min(map(len, by_domain.values())) if most == "even" else most
    return {p for places in by_domain.values() for p in ordered(places, hardness)[each:]}


def ordered(places: Sequence[int], hardness: Mapping[int, float]) -> list[int]:
    """The hardest first, of equals the first."""
    return sorted(places, key=lambda place: (hardness.get(place, 0.0), place))
