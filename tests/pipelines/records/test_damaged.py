"""A damaged file of a run folder is named with what to do, or costs no more than itself; it is never a traceback."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import InputError
from posttrain.pipelines import report
from posttrain.pipelines.records.ledger import LIVE
from posttrain.pipelines.records.logs import read_live
from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report import render, write_report
from posttrain.pipelines.report.server import ReportServer
from posttrain.pipelines.screen.tables import print_status
from posttrain.pipelines.screen.terminal import make_console

Harm = Callable[[Path], Any]


def without(file: str, *keys: str | int) -> Harm:
    """Drops what stands at the end of a path of keys."""

    def harm(run: Path) -> None:
        data = json.loads((run / file).read_text())
        at = data
        for key in keys[:-1]:
            at = at[key]
        del at[keys[-1]]
        (run / file).write_text(json.dumps(data))

    return harm


def holds(file: str, content: bytes) -> Harm:
    return lambda run: (run / file).write_bytes(content)


TABLE = "eval-cold/artifact/table.json"
NAMED = [
    ("plan.json", without("plan.json", "thresholds"), "run its recipe again"),
    ("plan.json", without("plan.json", "stages", 0, "gives"), "run its recipe again"),
    ("plan.json", holds("plan.json", b'{"recipe": "r", "sta'), "run its recipe again"),
    ("plan.json", holds("plan.json", b"[]"), "run its recipe again"),
    ("plan.json", holds("plan.json", b"\xff"), "run its recipe again"),
    ("overlap.json", holds("overlap.json", b'{"suites": [{"suite": "sums"}]}'), "delete it and run"),
    ("overlap.json", holds("overlap.json", b"{"), "delete it and run"),
    ("table.json", without(TABLE, "rows"), "--force eval-cold"),
    ("table.json", without(TABLE, "rows", 0, "value"), "--force eval-cold"),
    ("table.json", holds(TABLE, b'{"rows": [{"suite'), "--force eval-cold"),
    ("table.json", holds(TABLE, b"\xff"), "--force eval-cold"),
]


@pytest.mark.parametrize(("file", "harm", "fix"), NAMED)
def test_what_a_run_says_for_itself_is_named_if_damaged(runner: Any, file: str, harm: Harm, fix: str) -> None:
    runner.take_finished()
    harm(runner.run_dir)
    with pytest.raises(InputError) as caught:
        read_results(runner.run_dir)
    assert (caught.value.where or "").endswith(file)
    assert fix in (caught.value.fix or "")
    assert "no plan.json" not in str(caught.value)


@pytest.mark.parametrize(
    "harm",
    [
        holds("rl/state.json", b'{"pid": 1}'),
        holds("rl/state.json", b'{"state": []}'),
        holds("rl/metrics.jsonl", b'{"step": 1, "loss": 0.5}\n{"step": \xff\n\xff\n{"step": "2"}\n'),
        holds("rl/live.json", b'{"done": 1}'),
        holds("resolved.yaml", b"name: \xff\n"),
        holds("recipe.yaml", b"name: \xff\n"),
        holds("environment.json", b'{"packages": 1}'),
        holds("cold/artifact/manifest.json", b'{"metrics": 1, "seconds": "long"}'),
    ],
)
def test_other_damage_costs_no_more_than_itself(runner: Any, harm: Harm) -> None:
    runner.run(until="cold")
    (runner.run_dir / "rl").mkdir()
    harm(runner.run_dir)
    results = read_results(runner.run_dir)
    print_status(results, make_console())
    assert "cold" in render(results)


def test_a_page_that_cannot_be_drawn_is_said(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.run(until="cold")
    monkeypatch.setattr(report, "funnels", lambda results: {}["steps"])
    with pytest.raises(InputError, match="it is damaged: it lacks 'steps'"):
        write_report(read_results(runner.run_dir))


def test_a_state_that_says_nothing_is_said(runner: Any) -> None:
    runner.run(until="cold")
    (runner.run_dir / "rl").mkdir()
    (runner.run_dir / "rl" / "state.json").write_text('{"pid": 1}')
    state = read_results(runner.run_dir).states["rl"]
    assert (state["state"], state["why"]) == ("pending", "its state.json is damaged")


def test_metrics_that_can_be_read_are_kept(runner: Any) -> None:
    runner.run(until="cold")
    (runner.run_dir / "rl").mkdir()
    (runner.run_dir / "rl" / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}\n\xff\n')
    assert read_results(runner.run_dir).states["rl"]["metrics"] == {"step": 1, "loss": 0.5}


@pytest.mark.parametrize("told", [{"done": 1}, {"left": "soon"}, {"rate": 3}])
def test_a_place_in_a_stage_is_told_whole_or_not(tmp_path: Path, told: dict[str, Any]) -> None:
    whole = {"done": 1, "total": 2, "unit": "step", "rate": "", "left": None, "seconds": 1.0, "note": ""}
    (tmp_path / LIVE).write_text(json.dumps(whole))
    assert read_live(tmp_path) == whole
    (tmp_path / LIVE).write_text(json.dumps(told if "done" in told else whole | told))
    assert read_live(tmp_path) == {}


def test_a_manifest_that_names_no_files_is_damage_and_the_stage_runs_again(runner: Any) -> None:
    runner.take_finished()
    path = runner.run_dir / "eval-cold" / "artifact" / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "files"}))
    assert runner.run() == 0
    assert runner.worked == ["eval-cold"]


def test_a_damaged_table_that_is_made_anew_keeps_no_gate_from_its_own(runner: Any) -> None:
    cold = "cold: {kind: sft, model: base, data: queries, steps: 4"
    runner.recipe.write_text(runner.text.replace(cold, f"{cold}, gate: {{suite: sums, at_least: 0.1}}"))
    runner.run()
    (runner.run_dir / "eval-fusion" / "artifact" / "table.json").write_text("{")
    assert runner.run() == 0
    assert runner.worked == ["eval-fusion"]


@pytest.mark.parametrize("command", ["status run", "report run", "compare run run"])
def test_damage_exits_2_without_a_traceback(runner: Any, posttrain: Any, command: str) -> None:
    runner.take_finished()
    without(TABLE, "rows")(runner.run_dir)
    done = posttrain(*command.split(), cwd=runner.folder)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "table.json: it is damaged: it lacks 'rows'" in done.stderr


@pytest.mark.parametrize(("file", "harm", "fix"), NAMED)
def test_a_served_report_says_503_and_why(runner: Any, file: str, harm: Harm, fix: str) -> None:
    runner.take_finished()
    with ReportServer(runner.run_dir, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        harm(runner.run_dir)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.url)
        assert (caught.value.code, file in caught.value.read().decode()) == (503, True)
        server.shutdown()
