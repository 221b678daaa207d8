"""The report of a real small run: what it holds, that nothing a model wrote can run in it, that it stays small."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report import render, write_report
from posttrain.pipelines.report.datasets import funnels, histograms
from posttrain.pipelines.report.graph import GAP_Y, HIGH, WIDE, layout
from posttrain.pipelines.report.refresher import Refresher
from posttrain.pipelines.report.rollouts import BYTES, sampled_rollouts
from posttrain.stages.data.store import write_rows

ATTACK = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def payload(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def rollout(prompt: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    row = {"prompt_id": prompt, "prompt": f"{prompt}?", "mode": "think", "task": "math", "index": index}
    row |= {"text": "<think>\nhm\n</think>\n\n4", "tokens": 9, "finish_reason": "stop", "score": 1.0, "status": "ok"}
    return row | {"parts": [{"reward": "math", "value": 1.0}]} | fields


@pytest.fixture
def finished(runner: Any) -> Any:
    runner.take_finished()
    return runner


def test_a_page_needs_nothing_from_elsewhere(finished: Any) -> None:
    page = (finished.run_dir / "report.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", page) == []
    assert "default-src 'none'" in html.unescape(page)


def test_what_a_model_wrote_cannot_leave_its_place(finished: Any) -> None:
    rows = [rollout(ATTACK, text=f"<think>\n{ATTACK}\n</think>\n\n{ATTACK}", task=ATTACK)]
    write_rows(finished.run_dir / "rl" / "rollouts", rows, "step-000001.parquet")
    page = render(read_results(finished.run_dir))
    assert "<img" not in page
    (group,) = payload(page)["rollouts"]
    assert group["rows"][0]["answer"] == ATTACK


def test_a_recipe_and_an_error_are_escaped_too(runner: Any) -> None:
    def fail(context: Any) -> None:
        raise ValueError("<img src=x>")

    runner.during = fail
    runner.recipe.write_text(runner.text.replace("seed: 1", "description: '<img src=y>'\nseed: 1"))
    assert runner.run() == 1
    page = render(read_results(runner.run_dir))
    assert "&lt;img src=x&gt;" in page
    assert "<img" not in page


def test_groups_hold_parts_advantages_and_thinking_apart(finished: Any) -> None:
    rows = [rollout("a", i, score=None if i else 1.0, status="infra_error" if i else "ok", advantage=0.5 - i)
            for i in range(2)]  # fmt: skip
    write_rows(finished.run_dir / "rl" / "rollouts", [*rows, rollout("b")], "step-000002.parquet")
    first, second = sampled_rollouts(read_results(finished.run_dir))
    assert (first["stage"], first["step"], first["prompt"], len(first["rows"])) == ("rl", 2, "a?", 2)
    assert first["rows"][0]["think"] == "hm"
    assert first["rows"][0]["parts"] == {"math": 1.0}
    assert [row["adv"] for row in first["rows"]] == [0.5, -0.5]
    assert "score" not in first["rows"][1]  # a missing verdict is no 0
    assert "adv" not in second["rows"][0]  # a run of before it was kept


def test_many_long_rollouts_make_no_large_page(finished: Any) -> None:
    for step in range(1, 31):
        rows = [rollout(f"p{p}", i, text="x" * 3000) for p in range(40) for i in range(4)]
        write_rows(finished.run_dir / "rl" / "rollouts", rows, f"step-{step:06d}.parquet")
    page = render(read_results(finished.run_dir))
    assert len(page) < BYTES + 600_000
    steps = {group["step"] for group in payload(page)["rollouts"]}
    assert {1, 30} <= steps
    assert len(steps) == 12


def test_a_funnel_is_read_and_one_without_a_file_is_counted(finished: Any) -> None:
    steps = [{"reason": "duplicate", "dropped": 3, "left": 7}, {"reason": "too easy", "dropped": 2, "left": 5}]
    told = {"rows_in": 10, "steps": steps, "rows_out": 5}
    (finished.run_dir / "queries" / "artifact" / "funnel.json").write_text(json.dumps(told))
    path = finished.run_dir / "chat" / "artifact" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"provenance": {"dropped": {"wrong answer": 4}, "rows": 6}}
    path.write_text(json.dumps(manifest))
    results = read_results(finished.run_dir)
    assert funnels(results) == [
        {"stage": "queries", **told},
        {"stage": "chat", "rows_in": 10, "steps": [{"reason": "wrong answer", "dropped": 4, "left": 6}], "rows_out": 6},
    ]
    assert "too easy" in render(results)


def test_histograms_come_from_metrics_rollouts_and_pass_rates(finished: Any) -> None:
    folder = finished.run_dir
    for step, solved in ((1, 0.0), (9, 1.0)):
        write_rows(
            folder / "rl" / "rollouts", [rollout("a", i, score=solved) for i in range(4)], f"step-{step:06d}.parquet"
        )
    write_rows(folder / "queries" / "artifact", [{"pass_rate": 0.5}])
    write_rows(folder / "queries" / "artifact", [{"pass_rate": 1.0}], "dropped.parquet")
    queries, rl = histograms(read_results(folder))
    assert (queries["before"][-1], queries["after"][-1]) == (0.5, 0.0)
    assert (rl["before"][0], rl["after"][-1], rl["names"]) == (1.0, 1.0, ("step 1", "step 9"))
    lines = [{"step": step, "pass_rate_hist/0_of_2": 4 - step, "pass_rate_hist/2_of_2": step} for step in range(3)]
    (folder / "rl" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rl = histograms(read_results(folder))[1]
    assert (rl["labels"], rl["before"], rl["after"]) == (["0/2", "1/2", "2/2"], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5])


def test_boxes_of_the_drawing_never_overlap_and_arrows_go_right(finished: Any) -> None:
    stages = [stage for stage in read_results(finished.run_dir).stages if stage["gives"] != "table"]
    places = layout(stages)
    assert len(set(places.values())) == len(stages)
    rights = sorted(places.values())
    for x, y in rights:
        assert not any(abs(x - u) < WIDE and abs(y - v) < HIGH + GAP_Y for u, v in rights if (u, v) != (x, y))
    for stage in stages:
        assert all(places[needed][0] + WIDE < places[stage["name"]][0] for needed in stage["inputs"])


def test_the_report_is_there_while_the_run_goes_on(runner: Any) -> None:
    seen: list[str] = []

    def look(context: Any) -> None:
        if context.name == "rl":
            seen.append((runner.run_dir / "report.html").read_text())
            (context.dir / "live.json").write_text(
                json.dumps(
                    {"done": 2, "total": 6, "unit": "step", "rate": "1 step/s", "left": 4.0, "note": "", "seconds": 2}
                )
            )
            seen.append(render(read_results(runner.run_dir)))

    runner.during = look
    runner.run()
    assert "cold" in seen[0]
    assert re.search(r"<b>rl</b> is running: step 2 of 6\s*, about 4.0 s left", seen[1])


def test_a_report_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    refresher = Refresher(tmp_path / "nowhere", said.append)
    refresher.now()
    refresher.now()
    assert len(said) == 1
    assert "can't be written" in said[0]


def test_reports_inside_a_stage_keep_their_distance(finished: Any) -> None:
    refresher = Refresher(finished.run_dir, lambda text: None)
    refresher.now()
    (finished.run_dir / "report.html").unlink()
    refresher.maybe()
    assert not (finished.run_dir / "report.html").exists()


def test_a_damaged_rollout_file_costs_its_rows_and_not_the_page(finished: Any) -> None:
    folder = finished.run_dir / "rl" / "rollouts"
    write_rows(folder, [rollout("a")], "step-000001.parquet")
    shutil.copy(folder / "step-000001.parquet", folder / "step-000002.parquet")
    (folder / "step-000002.parquet").write_bytes(b"PAR1")
    assert [group["step"] for group in payload(render(read_results(finished.run_dir)))["rollouts"]] == [1]


def test_a_page_is_made_in_moments(finished: Any) -> None:
    write_report(read_results(finished.run_dir))
    began = time.monotonic()
    write_report(read_results(finished.run_dir))
    assert time.monotonic() - began < 3
