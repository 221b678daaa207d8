"""`${NAME}` in a recipe: resolved from the environment for the run, kept as a reference in what is written.

Only the stages see values. Files, keys, logs and error messages carry the reference, so that a secret which
a recipe names never reaches a run folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

SHORTEST_SECRET = 4
"""Shorter values aren't masked in text: masking every `1` would garble a message and protect nothing."""

Where = Callable[[tuple[str | int, ...], str], None]


def has_reference(value: Any) -> bool:
    """True for a string that holds `${NAME}` or `${NAME:-default}`."""
    return isinstance(value, str) and _REFERENCE.search(value) is not None


def resolve(data: Any, environment: Mapping[str, str], missing: Where, path: tuple[str | int, ...] = ()) -> Any:
    """`data` with references replaced; `missing(path, name)` is called for each variable that isn't set."""
    if isinstance(data, dict):
        return {key: resolve(value, environment, missing, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [resolve(value, environment, missing, (*path, i)) for i, value in enumerate(data)]
    if not isinstance(data, str):
        return data

    def value_of(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = environment.get(name, default)
        if value is None:
            missing(path, name)
        return value or ""

    return _REFERENCE.sub(value_of, data)


def values(data: Any, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that `data` names and their values, as far as they are set."""
    return {name: environment[name] for name in _names(data) if environment.get(name)}


def keep_references(resolved: Any, raw: Any) -> Any:
    """`resolved` (validated, with defaults) with the references of `raw` put back in their places."""
    if isinstance(resolved, dict) and isinstance(raw, dict):
        return {key: keep_references(value, raw.get(key)) for key, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(raw, list):
        return [keep_references(value, original) for value, original in zip(resolved, raw, strict=True)]
    return raw if has_reference(raw) else resolved


def mask(text: str, secrets: Mapping[str, str]) -> str:
    """`text` with the values of environment variables put back to references, the longest first."""
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"${{{name}}}")
    return text


def mask_data(data: Any, secrets: Mapping[str, str]) -> Any:
    """`mask` for every string in plain data."""
    if isinstance(data, Mapping):
        return {mask(str(key), secrets): mask_data(value, secrets) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [mask_data(value, secrets) for value in data]
    return mask(data, secrets) if isinstance(data, str) else data


def _names(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            yield from _names(value)
    elif isinstance(data, str):
        yield from (match.group(1) for match in _REFERENCE.finditer(data))
