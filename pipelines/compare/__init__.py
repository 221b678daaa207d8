"""`posttrain compare RUN_A RUN_B`: what two recipes say differently, what came of it, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from posttrain.errors import InputError
from posttrain.folders import read_json
from posttrain.pipelines.compare.numbers import ComparedNumber, compare_numbers
from posttrain.pipelines.compare.recipes import Difference, differences, recipe_differences
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.results import Figure, RunResults, read_results
from posttrain.pipelines.report.costs import StageCost, stage_costs


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one stage took in both runs, and the metrics it ended with; None where a run hasn't done it."""

    stage: str
    a: StageCost | None
    b: StageCost | None
    metrics: Mapping[str, tuple[float | None, float | None]]
    """By name: in A, in B. Empty for evaluations, whose metrics are the numbers."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that `compare` says."""

    a: RunResults
    b: RunResults
    recipe: tuple[Difference, ...]
    """Of recipes; of the content of files under one name (`stages.NAME: FILE`); of `packages.NAME`."""
    numbers: tuple[ComparedNumber, ...]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints. Numbers that don't exist are null."""
        data = {
            "a": {"run_dir": str(self.a.run_dir), "recipe": self.a.recipe},
            "b": {"run_dir": str(self.b.run_dir), "recipe": self.b.recipe},
            "recipe": [asdict(difference) for difference in self.recipe],
            "numbers": [_number_json(number) for number in self.numbers],
            "costs": [_cost_json(cost) for cost in self.costs],
            "notes": list(self.notes),
        }
        return _finite(data)


def compare_runs(run_a: Path, run_b: Path) -> Comparison:
    """Compare two run folders, finished or not.

    Raises:
        InputError: one is no run folder, or what it holds can't be read.
    """
    a, b = read_results(run_a), read_results(run_b)
    numbers, notes = compare_numbers(a, b)
    return Comparison(
        a=a,
        b=b,
        recipe=(*recipe_differences(_resolved(run_a), _resolved(run_b)), *_contents(a, b), *_packages(run_a, run_b)),
        numbers=tuple(numbers),
        costs=tuple(_costs(a, b)),
        notes=(*_unfinished(a, "A"), *_unfinished(b, "B"), *notes),
    )


def _resolved(run_dir: Path) -> Mapping[str, Any]:
    path = run_dir / "resolved.yaml"
    fix = "run its recipe again into this folder: what is done is reused, and the file written anew"
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"can't read the recipe: {str(error).splitlines()[0]}", where=str(path), fix=fix) from None
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        raise InputError("this is no resolved recipe: it has no stages", where=str(path), fix=fix)
    return data


def _contents(a: RunResults, b: RunResults) -> list[Difference]:
    """Files and bases that go by one name in both, and don't hold the same."""
    found: dict[str, Difference] = {}
    for name in (name for name in a.states if name in b.states):
        specs = [Ledger(side.run_dir).recorded(name) for side in (a, b)]
        if not all(specs):
            continue
        held = [{**spec.get("files", {}), "base": (spec.get("base") or {}).get("content")} for spec in specs]
        for file in held[0].keys() & held[1].keys():
            if held[0][file] and held[1][file] and held[0][file] != held[1][file]:
                digests = [f"sha256 {side[file][:12]}" for side in held]
                found.setdefault(file, Difference(path=f"content of {file}", a=digests[0], b=digests[1]))
    return [found[file] for file in sorted(found)]


def _packages(run_a: Path, run_b: Path) -> list[Difference]:
    a, b = (read_json(folder / "environment.json").get("packages", {}) for folder in (run_a, run_b))
    return list(differences(a, b, "packages"))


def _costs(a: RunResults, b: RunResults) -> list[Cost]:
    costs = [stage_costs(side) for side in (a, b)]
    tables = {stage["name"] for side in (a, b) for stage in side.stages if stage["gives"] == "table"}
    return [
        Cost(stage=name, a=_done(a, name, costs[0]), b=_done(b, name, costs[1]), metrics=_metrics(a, b, name, tables))
        for name in dict.fromkeys((*a.states, *b.states))
    ]


def _done(results: RunResults, stage: str, costs: Mapping[str, StageCost]) -> StageCost | None:
    return costs[stage] if _is_done(results, stage) else None


def _is_done(results: RunResults, stage: str) -> bool:
    return results.states.get(stage, {}).get("state") == "done"


def _metrics(
    a: RunResults, b: RunResults, stage: str, tables: set[str]
) -> dict[str, tuple[float | None, float | None]]:
    if stage in tables:
        return {}
    # Those of a stage that isn't done are where it stands, not where it ended.
    one, other = (side.states[stage]["metrics"] if _is_done(side, stage) else {} for side in (a, b))
    return {name: (one.get(name), other.get(name)) for name in dict.fromkeys((*one, *other)) if name != "step"}


def _unfinished(results: RunResults, side: str) -> list[str]:
    """A line for a run that has stages still to do: what is missing here, and how to get it."""
    left = {name: state["state"] for name, state in results.states.items() if state["state"] != "done"}
    if not left:
        return []
    stages = ", ".join(f"{name} ({state})" for name, state in left.items())
    if Ledger(results.run_dir).locked():
        return [f"{side} is running: {stages}; what they come to is told once they are done"]
    return [f"{side} isn't finished: {stages}; `posttrain run` on its recipe goes on from there"]


def _row_json(row: Figure) -> dict[str, Any]:
    return {"value": row.value, "low": row.low, "high": row.high, "n": row.n}


def _number_json(number: ComparedNumber) -> dict[str, Any]:
    row = number.a
    return {
        "stage": row.stage,
        "suite": row.suite,
        "mode": row.mode,
        "metric": row.metric,
        "a": _row_json(number.a),
        "b": _row_json(number.b),
        "basis": number.basis,
        "why": number.why,
        "difference": number.difference,
        "low": number.low,
        "high": number.high,
        "questions": number.questions,
        "missing": {"a": number.missing[0], "b": number.missing[1]},
    }


def _cost_json(cost: Cost) -> dict[str, Any]:
    return {
        "stage": cost.stage,
        **{side: None if of is None else asdict(of) for side, of in (("a", cost.a), ("b", cost.b))},
        "metrics": {name: {"a": values[0], "b": values[1]} for name, values in cost.metrics.items()},
    }


def _finite(data: Any) -> Any:
    """Plain data in which what isn't finite is null, which every JSON reader takes."""
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
