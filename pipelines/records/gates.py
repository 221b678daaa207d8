"""Gates: settled when a recipe is planned, judged from the finished tables of evaluations.

A gate stands on the stage whose model it checks; it is judged once the evaluation of that stage (and, for `no_drop`,
of the model it started from) is done. Judging reads tables only, so a resumed run judges again, by the recipe of now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.loading.problems import closest
from posttrain.configs.schema import Gate, Suite
from posttrain.errors import RecipeError
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.records.thresholds import METRICS

if TYPE_CHECKING:
    from posttrain.pipelines.records.results import Figure


@dataclass(frozen=True, kw_only=True)
class SettledGate:
    """A gate with everything that was left to defaults."""

    stage: str
    suite: str
    mode: str
    metric: str
    at_least: float | None
    no_drop: float | None
    stops: bool
    before: str | None
    """With `no_drop`: the stage (or `base`) whose model the stage started from."""
    needs: tuple[str, ...]
    """The evaluations that must be done."""

    def to_json(self) -> dict[str, Any]:
        """As plan.json keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SettledGate:
        """Back from plan.json."""
        return cls(**{**data, "needs": tuple(data["needs"])})


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """What a gate came to; `passed` is None as long as an evaluation it needs isn't done."""

    gate: SettledGate
    passed: bool | None
    found: str
    """The number with its interval, and the one it is compared with."""
    wanted: str

    @property
    def word(self) -> str:
        return {True: "PASS", False: "FAIL" if self.gate.stops else "WARN", None: "not run"}[self.passed]

    @property
    def cell(self) -> str:
        """STAGE:SUITE:MODE:METRIC."""
        gate = self.gate
        return f"{gate.stage}:{gate.suite}:{gate.mode}:{gate.metric}"

    def __str__(self) -> str:
        return f"{self.word}  gate {self.cell} {self.wanted}: {self.found}"


def settle_gates(loaded: LoadedRecipe, dag: Mapping[str, Node]) -> tuple[SettledGate, ...]:
    """All gates of a recipe. Raises RecipeError for one that nothing will ever judge."""
    return tuple(
        _settle(loaded, dag, node, index, gate)
        for node in dag.values()
        if node.at[0] == "stages"
        for index, gate in enumerate(node.spec.gate)
    )


def judge_gate(gate: SettledGate, rows: Iterable[Figure]) -> GateVerdict:
    """Judge by the numbers themselves; the intervals are shown, so that a person sees how sure they are."""
    found = {
        row.stage: row for row in rows if (row.suite, row.mode, row.metric) == (gate.suite, gate.mode, gate.metric)
    }
    asked = {row.stage for row in rows}
    wanted = []
    if gate.at_least is not None:
        wanted.append(f">= {gate.at_least:g}")
    if gate.no_drop is not None:
        wanted.append(f"at most {gate.no_drop:g} below {gate.before}")
    needed = [gate.stage, *([gate.before] if gate.before else [])]
    missing = [name for name in needed if name not in found]
    if missing:
        known = all(name in asked for name in needed)  # it was evaluated, and there is no such number
        text = f"no result for {', '.join(missing)}"
        return GateVerdict(gate=gate, passed=False if known else None, found=text, wanted=" and ".join(wanted))
    row = found[gate.stage]
    text, passed = _number(row), not math.isnan(row.value)
    if gate.at_least is not None:
        passed &= row.value >= gate.at_least - _ROUNDING
    if gate.no_drop is not None and gate.before is not None:
        before = found[gate.before]
        passed &= row.value >= before.value - gate.no_drop - _ROUNDING
        change = row.value - before.value
        text += f"{'' if math.isnan(change) else f', {change:+.3f}'} against {gate.before}'s {_number(before)}"
    return GateVerdict(gate=gate, passed=passed, found=text, wanted=" and ".join(wanted))


_ROUNDING = 1e-9
"""0.62 - 0.6 is a little more than 0.02 in floating point, and no drop of more than 0.02."""


def failure_text(verdicts: Sequence[GateVerdict]) -> str:
    """What a person is told when the pipeline stops at gates: which number, how sure it is, and what to do."""
    lines = [f"stopped: {verdicts[0].gate.stage} doesn't pass its gate" + ("s" if len(verdicts) > 1 else "")]
    lines += [f"  {verdict.cell} is {verdict.found}; wanted: {verdict.wanted}" for verdict in verdicts]
    stage = verdicts[0].gate.stage
    lines.append(
        f"  to go on: change `{stage}` and run again; or lower the gate, or set its `action: warn`, and run again:"
        " what is done is reused, and the gate judged anew"
    )
    return "\n".join(lines)


def _number(row: Figure) -> str:
    return f"{row.text()} (n={row.n})"


def _settle(loaded: LoadedRecipe, dag: Mapping[str, Node], node: Node, index: int, gate: Gate) -> SettledGate:
    at = (*node.at, "gate", index)

    def refuse(what: str, fix: str) -> RecipeError:
        return RecipeError(f"the gate of `{node.name}`: {what}", where=loaded.where(at), fix=fix)

    evaluation, suite = _suite_after(dag, node.name, gate.suite)
    if suite is None:
        suites = [suite.name for other in _evaluations(dag, node.name) for suite in other.declaration.suites]
        what = f"no suite {gate.suite!r} is run after it; {closest(gate.suite, suites)}" if suites else (
            "nothing is evaluated after it"
        )  # fmt: skip
        raise refuse(what, f"name `{node.name}` in `evaluate.after`, with suite {gate.suite} in `evaluate.suites`")
    modes = ["flags"] if suite.measure == "mode_following" else list(suite.modes)
    mode = gate.mode or modes[0]
    if mode not in modes or (gate.mode is None and len(modes) > 1):
        what = f"suite {gate.suite} has no mode {mode!r}" if gate.mode else f"suite {gate.suite} has several modes"
        raise refuse(what, f"set its `mode` to one of: {', '.join(modes)}")
    before, needs = None, [evaluation]
    if gate.no_drop is not None:
        training = node.declaration.training
        before = training.model.source if training else None
        earlier, asked = _suite_after(dag, before, gate.suite) if before else ("", None)
        if before is None or asked is None or (suite.measure != "mode_following" and mode not in asked.modes):
            what = f"`no_drop` compares with {before or 'its start'}, which isn't asked suite {gate.suite}"
            raise refuse(what, f"name `{before}` in `evaluate.after`" if before else "use `at_least`")
        needs.append(earlier)
    return SettledGate(
        stage=node.name,
        suite=gate.suite,
        mode=mode,
        metric=_metric(gate, suite, refuse),
        at_least=gate.at_least,
        no_drop=gate.no_drop,
        stops=gate.action == "stop",
        before=before,
        needs=tuple(needs),
    )


def _metric(gate: Gate, suite: Suite, refuse: Any) -> str:
    defaults = {"reward": "accuracy", "mode_following": "turns", "budget": f"accuracy@{max(suite.budgets)}"}
    metric = gate.metric or defaults[suite.measure]
    name = metric.replace("@", "/").split("/")[0]
    if name not in METRICS:
        raise refuse(f"no evaluation gives the metric {metric!r}; {closest(name, METRICS)}", "fix `metric`")
    return metric


def _evaluations(dag: Mapping[str, Node], stage: str) -> list[Node]:
    return [node for node in dag.values() if node.evaluates == stage]


def _suite_after(dag: Mapping[str, Node], stage: str, name: str) -> tuple[str, Suite | None]:
    """The evaluation of `stage` that asks the suite, and the suite."""
    for node in _evaluations(dag, stage):
        for suite in node.declaration.suites:
            if suite.name == name:
                return node.name, suite
    return "", None
