"""Gates stop what isn't good enough, say why, and are judged again by the recipe of now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.pipelines.records.gates import SettledGate, judge_gate
from posttrain.pipelines.records.results import Figure, read_results

COLD = "{kind: sft, model: base, data: queries, steps: 4"


def gated(runner: Any, gate: str, stage: str = COLD, after: str = "[cold, fusion]") -> None:
    assert stage in runner.text
    text = runner.text.replace(stage, f"{stage}, gate: {gate}", 1).replace("after: [cold, fusion]", f"after: {after}")
    runner.recipe.write_text(text)


def test_a_failed_gate_stops_the_pipeline_with_its_number_and_what_to_do(runner: Any) -> None:
    gated(runner, "{suite: sums, at_least: 0.3}")
    assert runner.run() == 1
    assert runner.worked == ["queries", "chat", "cold", "eval-cold"]
    assert "cold:sums:default:accuracy is 0.200 [0.20, 0.20] (n=9); wanted: >= 0.3" in runner.printed
    assert "action: warn" in runner.printed
    assert "cold:sums:default:accuracy = 0.200" in runner.printed  # the table
    assert (runner.run_dir / "report.html").exists()


def test_a_relaxed_gate_goes_on_from_the_finished_tables(runner: Any) -> None:
    gated(runner, "{suite: sums, at_least: 0.3}")
    runner.run()
    gated(runner, "{suite: sums, at_least: 0.2}")
    assert runner.run() == 0
    assert runner.worked == ["rl", "fusion", "eval-fusion"]


def test_a_gate_is_judged_though_everything_is_reused(runner: Any) -> None:
    runner.take_finished()
    gated(runner, "{suite: sums, at_least: 0.3}")
    assert runner.run() == 1
    assert runner.worked == []


def test_a_gate_that_warns_says_so_and_lets_the_run_go_on(runner: Any) -> None:
    gated(runner, "{suite: sums, at_least: 0.3, action: warn}")
    assert runner.run() == 0
    assert "WARN  gate cold:sums:default:accuracy >= 0.3: 0.200" in runner.printed
    assert "eval-fusion" in runner.worked


@pytest.mark.parametrize(("before", "code"), [(0.82, 0), (0.83, 1)])
def test_no_drop_compares_with_the_model_that_the_stage_started_from(runner: Any, before: float, code: int) -> None:
    runner.text = runner.text.replace(
        '  - "fusion:sums:default:accuracy - cold:sums:default:accuracy >= 0.1"\n', "  []"
    )
    gated(runner, "[{suite: sums, no_drop: 0.02}]", "{kind: sft, model: rl, data: [queries, chat], steps: 2",
          "[rl, fusion]")  # fmt: skip
    runner.accuracy = {"rl": before, "fusion": 0.8}
    assert runner.run() == code
    assert ("-0.030 against rl's 0.830 [0.83, 0.83]" in runner.printed) is bool(code)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ("{suite: sms, at_least: 0.3}", "no suite 'sms' is run after it; did you mean `sums`"),
        ("{suite: sums, mode: think, at_least: 0.3}", "no mode 'think'.*one of: default"),
        ("{suite: sums, metric: acuracy, at_least: 0.3}", "metric 'acuracy'.*`accuracy`"),
        ("{suite: sums, no_drop: 0.1}", "compares with base, which isn't asked"),
        ("{suite: sums}", "needs `at_least`, `no_drop`"),
        ("{suite: sums, atleast: 1}", "did you mean `at_least`"),
    ],
)
def test_a_gate_that_nothing_would_judge_is_refused(runner: Any, gate: str, says: str) -> None:
    gated(runner, gate)
    with pytest.raises(InputError, match=f"(?s){says}"):
        runner.run()
    assert runner.worked == []


def test_a_gate_on_what_is_never_evaluated_is_refused(runner: Any) -> None:
    gated(runner, "{suite: sums, at_least: 0.1}", after="[fusion]")
    runner.recipe.write_text(runner.recipe.read_text().split("thresholds:")[0])
    with pytest.raises(InputError, match="nothing is evaluated after it"):
        runner.run()


def gate(**fields: Any) -> SettledGate:
    settled = {"stage": "b", "suite": "s", "mode": "m", "metric": "accuracy", "at_least": None, "no_drop": None}
    return SettledGate(**{**settled, "stops": True, "before": None, "needs": ("eval-b",), **fields})  # type: ignore[arg-type]


def row(stage: str, value: float) -> Figure:
    return Figure(stage=stage, suite="s", mode="m", metric="accuracy", value=value, low=value, high=value, n=3)


@pytest.mark.parametrize(
    ("fields", "rows", "passed"),
    [
        ({"at_least": 0.6}, [row("b", 0.6)], True),
        ({"at_least": 0.6}, [row("b", 0.599)], False),
        ({"at_least": 0.0}, [row("b", float("nan"))], False),
        ({"no_drop": 0.02, "before": "a"}, [row("a", 0.62), row("b", 0.6)], True),
        ({"no_drop": 0.02, "before": "a"}, [row("a", 0.63), row("b", 0.6)], False),
        ({"no_drop": 0.02, "before": "a"}, [row("b", 0.6)], None),
        ({"at_least": 0.1, "metric": "pass@9"}, [row("b", 0.6)], False),
        ({"at_least": 0.1}, [], None),
    ],
)
def test_gates_are_judged_by_their_numbers(fields: dict[str, Any], rows: list[Figure], passed: bool | None) -> None:
    assert judge_gate(gate(**fields), rows).passed is passed


def test_the_verdicts_are_read_back_from_the_run_folder(runner: Any, tmp_path: Path) -> None:
    gated(runner, "{suite: sums, at_least: 0.1}")
    runner.run()
    (verdict,) = read_results(runner.run_dir).gates
    assert verdict.passed
    assert json.loads((runner.run_dir / "plan.json").read_text())["gates"][0]["stage"] == "cold"


def test_a_gate_on_a_number_without_any_verdict_fails_and_says_so() -> None:
    before, after = row("a", 0.5), row("b", float("nan"))
    verdict = judge_gate(gate(no_drop=0.1, before="a"), [before, after])
    assert verdict.passed is False
    assert verdict.found == "no verdict (n=3) against a's 0.500 [0.50, 0.50] (n=3)"
