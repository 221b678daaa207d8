"""What became of the data: rows in, dropped by reason, out; and how hard the questions are, before and after."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import DataError
from posttrain.folders import read_json
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.logs import read_metrics
from posttrain.pipelines.records.results import RunResults
from posttrain.stages.data.store import read_rows

BINS = 5
_COLUMN = re.compile(r"pass_rate_hist/(\d+)_of_(\d+)")

Funnel = dict[str, Any]
"""{stage, rows_in, steps: [{reason, dropped, left}], rows_out}"""
Histogram = dict[str, Any]
"""{title, labels, before, after, names}: shares of the questions in each bin, 0 to 1."""


def funnels(results: RunResults) -> list[Funnel]:
    """The funnel of each stage that gives data: its funnel.json, else what its manifest counts."""
    ledger = Ledger(results.run_dir)
    found = []
    for stage in results.stages:
        if stage["gives"] != "data":
            continue
        funnel = read_json(ledger.artifact(stage["name"]) / "funnel.json") or _counted(ledger.manifest(stage["name"]))
        if funnel:
            found.append({"stage": stage["name"], **funnel})
    return found


def _counted(manifest: Mapping[str, Any]) -> Funnel:
    provenance = manifest.get("provenance", {})
    dropped, rows = provenance.get("dropped"), provenance.get("rows")
    if not isinstance(dropped, dict) or not isinstance(rows, int):
        return {}
    left = rows + sum(dropped.values())
    steps = []
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        left -= count
        steps.append({"reason": reason, "dropped": count, "left": left})
    return {"rows_in": rows + sum(dropped.values()), "steps": steps, "rows_out": rows}


def histograms(results: RunResults) -> list[Histogram]:
    """Pass rates before and after: of curated questions, and of the first and last steps of RL."""
    found = []
    for stage in results.stages:
        folder = results.run_dir / stage["name"]
        made = _curated(folder / "artifact") if stage["kind"] == "curate" else _trained(folder)
        if made is not None:
            found.append({"title": stage["name"], **made})
    return found


def _curated(artifact: Path) -> Histogram | None:
    kept = _rates(artifact / "data.parquet")
    if not kept:
        return None
    return {
        **_histogram([*kept, *_rates(artifact / "dropped.parquet")], kept),
        "names": ("all that were asked", "kept"),
    }


def _trained(folder: Path) -> Histogram | None:
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if any(map(_COLUMN.fullmatch, line))]
    if len(lines) > 1:
        counts = [
            {int(m[1]): line[m[0]] or 0.0 for m in map(_COLUMN.fullmatch, line) if m} for line in (lines[0], lines[-1])
        ]
        n = max((int(m[2]) for m in map(_COLUMN.fullmatch, lines[0]) if m), default=0)
        labels = [f"{i}/{n}" for i in range(n + 1)]
        before, after = ([float(count.get(i, 0.0)) for i in range(n + 1)] for count in counts)
        return {"labels": labels, "before": _shares(before), "after": _shares(after), "names": _steps(lines)}
    files = sorted((folder / "rollouts").glob("step-*.parquet"))
    if len(files) < 2:
        return None
    first, last = (_solved(path) for path in (files[0], files[-1]))
    names = tuple(f"step {int(path.stem.removeprefix('step-'))}" for path in (files[0], files[-1]))
    return {**_histogram(first, last), "names": names} if first and last else None


def _steps(lines: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    return f"step {lines[0]['step']}", f"step {lines[-1]['step']}"


def _solved(path: Path) -> list[float]:
    """The mean score of each prompt's group, where scores are shares."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in _rows(path):
        if row.get("score") is not None:
            scores[row["prompt_id"]].append(row["score"])
    return [min(1.0, max(0.0, sum(group) / len(group))) for group in scores.values()]


def _rates(path: Path) -> list[float]:
    return [row["pass_rate"] for row in _rows(path) if isinstance(row.get("pass_rate"), int | float)]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(path) if path.exists() else []
    except DataError:  # half written, or of another make: a picture less
        return []


def _histogram(before: Iterable[float], after: Iterable[float]) -> Histogram:
    """Bins of equal width, in percent, and one each for never and always solved."""
    labels = ["never", *(f"≤ {100 * (i + 1) // BINS}" for i in range(BINS - 1)), "< 100", "always"]

    def counts(rates: Iterable[float]) -> list[float]:
        result = [0.0] * len(labels)
        for rate in rates:
            index = 0 if rate <= 0 else len(labels) - 1 if rate >= 1 else 1 + min(BINS - 1, int(rate * BINS - 1e-9))
            result[index] += 1
        return result

    return {"labels": labels, "before": _shares(counts(before)), "after": _shares(counts(after))}


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1.0
    return [count / total for count in counts]
