"""The evaluation results of a run folder, and what the thresholds say about them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.pipelines.records.gates import GateVerdict, SettledGate, judge_gate
from posttrain.pipelines.records.ledger import Ledger, reading
from posttrain.pipelines.records.thresholds import Cell, ThresholdVerdict, judge, parse_check
from posttrain.stages.curation.overlap import SuiteOverlap

TABLE = "table.json"
OVERLAP = "overlap.json"
NO_VERDICT = "no verdict"
"""What stands for a number that no question gave."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of an evaluation, with its interval."""

    stage: str
    """The stage that was evaluated, or `base`."""
    suite: str
    mode: str
    metric: str
    """With its thinking budget, if it has one: accuracy@16."""
    value: float
    low: float
    high: float
    n: int

    def text(self, *, between: str = " ") -> str:
        """The number with its interval, wherever one is printed: `0.812 [0.77, 0.85]`."""
        if math.isnan(self.value):
            return NO_VERDICT
        return f"{self.value:.3f}{between}[{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What a run folder says for itself: its plan, states, rows and verdicts."""

    run_dir: Path
    recipe: str
    description: str
    stages: tuple[Mapping[str, Any], ...]
    """Of plan.json: name, kind, gives, inputs, evaluates."""
    states: Mapping[str, Mapping[str, Any]]
    """By stage: state, why, key, metrics, seconds."""
    rows: tuple[Figure, ...]
    verdicts: tuple[ThresholdVerdict, ...]
    gates: tuple[GateVerdict, ...] = ()
    overlaps: tuple[SuiteOverlap, ...] = ()
    """Held-out questions that stand in training data too, by suite; empty if they weren't compared."""

    @property
    def failed(self) -> tuple[ThresholdVerdict, ...]:
        """The thresholds that weren't met."""
        return tuple(verdict for verdict in self.verdicts if verdict.passed is False)

    @property
    def final_models(self) -> tuple[Path, ...]:
        """The models that training ends with: no other stage trains them on, controls aside."""
        trained = [stage for stage in self.stages if stage["gives"] == "model" and not stage.get("control")]
        continued = {stage.get("continues") for stage in trained}
        return tuple(
            self.run_dir / stage["name"] / "artifact"
            for stage in trained
            if stage["name"] not in continued and self.states[stage["name"]]["state"] == "done"
        )


def read_results(run_dir: Path) -> RunResults:
    """Read a run folder. Raises InputError if `run` never wrote there, or a file is damaged."""
    path = run_dir / "plan.json"
    if not path.exists():
        raise InputError(
            "this isn't a run folder: it has no plan.json",
            where=str(run_dir),
            fix="name a folder that `posttrain run` wrote: runs/NAME, or what --run-dir said",
        )
    ledger = Ledger(run_dir)
    with reading(path, "run its recipe again into this folder: what is done is reused, and the file written anew"):
        plan = json.loads(path.read_text("utf-8"))
        stages = tuple(_stage(stage) for stage in plan["stages"])
        checks = [parse_check(item["check"], item["about"]) for item in plan["thresholds"]]
        gates = [SettledGate.from_json(item) for item in plan.get("gates", ())]
        recipe, description = str(plan["recipe"]), str(plan["description"])
    states = {stage["name"]: _state(ledger, stage["name"]) for stage in stages}
    rows = tuple(row for stage in stages for row in evaluation_rows(ledger, stage))
    cells: dict[Cell, float] = {(row.stage, row.suite, row.mode, row.metric): row.value for row in rows}
    for stage in stages:  # an evaluation answers to its own name too
        for row in evaluation_rows(ledger, {**stage, "evaluates": stage["name"]}):
            cells.setdefault((row.stage, row.suite, row.mode, row.metric), row.value)
    return RunResults(
        run_dir=run_dir,
        recipe=recipe,
        description=description,
        stages=stages,
        states=states,
        rows=rows,
        verdicts=tuple(judge(check, cells) for check in checks),
        gates=tuple(judge_gate(gate, rows) for gate in gates),
        overlaps=_overlaps(run_dir),
    )


def _stage(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage of plan.json. Raises KeyError if it lacks what readers ask."""
    return {**stage, **{name: stage[name] for name in ("name", "kind", "gives", "inputs", "evaluates")}}


def status_json(results: RunResults) -> dict[str, Any]:
    """What `status --json` prints."""
    return {
        "stages": {
            name: {
                "state": state["state"],
                "key": state["key"],
                "metrics": state["metrics"],
                **({"progress": state["live"]} if state.get("live") else {}),
            }
            for name, state in results.states.items()
        }
    }


def results_json(results: RunResults) -> dict[str, Any]:
    """What `report --json` prints: results, thresholds and gates."""
    return {
        "recipe": results.recipe,
        "results": [{name: _finite(value) for name, value in vars(row).items()} for row in results.rows],
        "thresholds": [
            {"check": verdict.text, "passed": verdict.passed, "detail": verdict.detail, "about": verdict.about}
            for verdict in results.verdicts
        ],
        "gates": [
            {"gate": verdict.cell, "passed": verdict.passed, "found": verdict.found} for verdict in results.gates
        ],
    }


def _finite(value: Any) -> Any:
    """None for nan, which JSON lacks."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _state(ledger: Ledger, name: str) -> dict[str, Any]:
    from posttrain.pipelines.records.logs import read_live, read_metrics

    state, why = ledger.state(name)
    manifest = ledger.manifest(name)
    lines = [] if manifest else read_metrics(ledger.dir(name) / "metrics.jsonl")
    spent = ledger.spent(name)
    metrics = manifest.get("metrics", lines[-1] if lines else {})
    live = {"live": read_live(ledger.dir(name))} if state == "running" else {}
    return {
        "state": state,
        **live,
        "why": why,
        "key": ledger.recorded(name).get("key"),
        "metrics": metrics if isinstance(metrics, dict) else {},
        "seconds": spent if spent or "seconds" in manifest else None,
    }


def _overlaps(run_dir: Path) -> tuple[SuiteOverlap, ...]:
    path = run_dir / OVERLAP
    if not path.exists():
        return ()
    with reading(path, "delete it and run the recipe again: it is made anew"):
        suites = json.loads(path.read_text("utf-8"))["suites"]
        return tuple(SuiteOverlap(**{**suite, "examples": tuple(suite["examples"])}) for suite in suites)


def _metric(row: Mapping[str, Any]) -> str:
    """The metric with its thinking budget, if it has one: accuracy@16."""
    name, budget = str(row["metric"]), row.get("budget")
    return name if budget is None or "@" in name else f"{name}@{budget}"


def evaluation_rows(ledger: Ledger, stage: Mapping[str, Any]) -> list[Figure]:
    """The numbers of one stage of plan.json; none if it is no evaluation, or isn't done.

    Raises InputError for a damaged table.
    """
    path = ledger.artifact(stage["name"]) / TABLE
    if stage["gives"] != "table" or not path.exists():
        return []
    with reading(path, f"run the recipe again with --force {stage['name']}"):
        return [
            Figure(
                stage=stage["evaluates"] or stage["name"],
                suite=row["suite"],
                mode=row["mode"],
                metric=_metric(row),
                value=float(row["value"]),
                low=float(row["low"]),
                high=float(row["high"]),
                n=int(row["n"]),
            )
            for row in json.loads(path.read_text("utf-8"))["rows"]
        ]
