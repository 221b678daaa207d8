"""The rollouts that the page's browser holds: groups from kept steps and evaluations, few enough for one file.

Which ones is fixed by the run's files: first and last steps and those evenly between, and groups evenly over a step.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from posttrain.errors import DataError
from posttrain.pipelines.records.results import RunResults
from posttrain.stages.data.store import read_rows
from posttrain.thinking import split_thinking

BYTES = 2_200_000
"""What all rollouts of a page may take, as JSON."""
FILES = 12
"""Steps of a stage."""
LONGEST = 6_000
"""Characters of a prompt, of thinking, of an answer; what is longer is cut, and says so."""
ROWS = 64
"""Completions of a group."""

T = TypeVar("T")
Group = dict[str, Any]
"""{stage, step, suite, id, prompt, task, mode, rows: [{i, think, answer, tokens, end, score, status, parts, adv}]}"""


def sampled_rollouts(results: RunResults) -> list[Group]:
    """Groups for the browser: of training in the order of the run, then of evaluations."""
    sources = [source for stage in results.stages for source in _sources(results.run_dir, stage["name"])]
    if not sources:
        return []
    share = BYTES // len(sources)
    sources.sort(key=lambda source: source[1] is None)  # what was trained on, before what was evaluated
    found: list[Group] = []
    for stage, step, path in sources:
        stat = path.stat()
        groups = _of_file(path, stat.st_mtime_ns, share)
        found += [{"stage": stage, "step": step, **group} for group in groups]
    return found


def _sources(run_dir: Path, stage: str) -> Iterator[tuple[str, int | None, Path]]:
    files = sorted((run_dir / stage / "rollouts").glob("step-*.parquet"))
    for path in _spread(files, FILES):
        yield stage, int(path.stem.removeprefix("step-")), path
    completions = run_dir / stage / "artifact" / "completions.parquet"
    if completions.exists():
        yield stage, None, completions


def _spread(items: Sequence[T], n: int) -> list[T]:
    """`n` of the items, evenly, the first and the last among them.

    >>> _spread([1, 2, 3, 4, 5, 6, 7], 3)
    [1, 4, 7]
    """
    if len(items) <= n:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, n - 1))] for i in range(n)]


@functools.lru_cache(maxsize=256)
def _of_file(path: Path, changed: int, room: int) -> tuple[Group, ...]:
    """As many groups of one file as there is room for; remembered until the file changes."""
    try:
        rows = read_rows(path)
    except DataError:  # being written just now
        return ()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (str(row.get("suite", "")), str(row.get("ask", "")), str(row["prompt_id"]))
        groups.setdefault(key, []).append(row)
    ordered = list(groups.items())
    count = len(ordered)
    while count:
        chosen = [_group(key, members) for key, members in _spread(ordered, count)]
        size = len(json.dumps(chosen, ensure_ascii=False).encode())
        if size <= room:
            return tuple(chosen)
        count = min(count - 1, int(count * room / size))
    return ()


def _group(key: tuple[str, ...], rows: list[dict[str, Any]]) -> Group:
    first = rows[0]
    return {
        "suite": " ".join(part for part in key[:2] if part),
        "id": key[2],
        "prompt": _cut(str(first.get("prompt", ""))),
        "task": str(first.get("task") or ""),
        "mode": str(first.get("mode") or ""),
        "rows": [_row(row) for row in rows[:ROWS]],
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    text = str(row.get("text", ""))
    split = split_thinking(text)
    made = {
        "i": row.get("index"),
        "think": _cut(split.thinking),
        "answer": _cut(split.answer),
        "tokens": row.get("tokens"),
        "end": row.get("finish_reason"),
        "score": _short(row.get("score")),
        "status": row.get("status"),
        "parts": {part["reward"]: _short(part.get("value")) for part in row.get("parts") or ()},
        "adv": _short(row.get("advantage")),
    }
    return {name: value for name, value in made.items() if value is not None and value != ""}


def _short(value: Any) -> float | None:
    return float(f"{value:.4g}") if isinstance(value, int | float) and value == value else None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST} characters more)"
