"""The report in a headless Chromium, made by a real run of a small recipe: it renders, filters, asks for nothing."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report import write_report
from posttrain.stages.data.store import read_rows, write_rows

from ..kept import CLUSTER


def starts(browser: str) -> bool:
    """Ubuntu's package is a stub that asks for snap."""
    return subprocess.run([browser, "--version"], capture_output=True, timeout=30).returncode == 0


FOUND = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")))
CHROMIUM = next(filter(starts, FOUND), None)
expect = pytest.importorskip("playwright.sync_api", reason="needs the package playwright").expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium that starts on the PATH (Debian: apt install chromium)"),
]
ATTACK = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

RECIPE = """name: small
description: A recipe of every kind of section
base: builtin:tiny
stages:
  demonstrations: {kind: sample, model: builtin:oracle, prompts: {from: builtin:arithmetic, n: 60}, filters: [correct]}
  cold: {kind: sft, model: base, data: demonstrations, steps: 6, batch_size: 8, gate: {suite: sums, at_least: 0}}
  queries: {kind: curate, model: cold, prompts: {from: builtin:arithmetic, n: 16}, n: 2,
            keep: {pass_rate: [0, 1]}, sampling: {max_tokens: 16}}
  rl: {kind: grpo, model: cold, prompts: queries, rewards: [math, format], steps: 3, prompts_per_step: 4, group_size: 4,
       sampling: {max_tokens: 24}}
evaluate:
  suites:
    - {name: sums, prompts: {from: builtin:arithmetic, split: heldout, n: 8}, k: 2, sampling: {max_tokens: 16}}
    - {name: budget, measure: budget, prompts: {from: builtin:arithmetic, split: heldout, n: 4}, budgets: [0, 8],
       modes: [think], sampling: {max_tokens: 16}}
  after: [cold, rl]
thresholds: ["rl:sums:default:accuracy >= 0"]
logging: {rollouts_every: 1}
"""


@pytest.fixture(scope="module")
def small_run(kept_run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run; in its last step, one completion attacks the page and each has an advantage."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(RECIPE)
    out = io.StringIO()
    recipe = load_recipe(folder / "small.yaml", [f"cluster={CLUSTER}"])
    assert kept_run(recipe, folder / "run", console=Console(file=out, width=200)) == 0, out.getvalue()
    path = sorted((folder / "run" / "rl" / "rollouts").glob("*.parquet"))[-1]
    rows = read_rows(path)
    for index, row in enumerate(rows):
        row["advantage"] = 0.75 if index % 2 else -0.75
    rows[0] |= {"text": f"<think>\n{ATTACK}\n</think>\n\n{ATTACK}", "prompt": "The attacked prompt"}
    write_rows(path.parent, rows, path.name)
    write_report(read_results(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page with what it logged and what it asked for."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)


@pytest.fixture
def opened(browser: Any, small_run: Path) -> Iterator[Opened]:
    made = Opened(browser, (small_run / "report.html").as_uri(), viewport={"width": 1280, "height": 900})
    yield made
    made.context.close()


def test_every_section_renders_without_errors_or_requests(opened: Opened, small_run: Path) -> None:
    page = opened.page
    for name in ("pipeline", "evaluation", "curves", "difficulty", "data", "rollouts", "about"):
        section = page.locator(f"section#{name}")
        section.scroll_into_view_if_needed()
        assert section.is_visible(), name
    assert page.locator("svg.dag g.stage").count() == 4
    assert page.locator(".matrix .cell").count() > 8
    assert page.locator(".funnel li").count() >= 4
    assert page.locator(".bars .pair").count() >= 7
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("canvas").wait_for(timeout=5000)
    themes = page.locator(".theme h3").all_inner_texts()
    assert {"Thinking budget", "Reward", "Entropy", "Length", "Clip share", "Seconds by phase"} <= set(themes)
    assert opened.problems == []
    assert opened.requests == [(small_run / "report.html").as_uri()]


def test_the_browser_filters_and_opens_a_rollout(opened: Opened) -> None:
    page = opened.page
    everything = page.locator("#f-count").inner_text()
    page.select_option("#f-stage", "rl")
    page.select_option("#f-step", "step 3")
    assert page.locator("#f-count").inner_text() == f"4 prompts, 16 completions of {everything}"
    assert page.locator(".group .where").first.inner_text().startswith("rl")
    page.locator(".group > button").first.click()
    answers = page.locator(".group.open .answer")
    assert answers.count() == 4
    assert "advantage -0.75" in answers.first.inner_text()
    assert "math" in answers.first.inner_text()
    assert not answers.first.locator(".thinking .text").is_visible()  # folded
    answers.first.locator("summary").click()
    assert answers.first.locator(".thinking .text").is_visible()
    page.fill("#f-text", "the ATTACKED prompt")
    expect(page.locator("#f-count")).to_contain_text("1 prompts, 4 completions of")
    page.fill("#f-text", "nothing says this")
    expect(page.locator(".group")).to_have_count(0)


def test_what_a_model_wrote_does_not_run(opened: Opened) -> None:
    page = opened.page
    page.fill("#f-text", "onerror=")
    expect(page.locator(".group")).to_have_count(1)
    page.locator(".group > button").click()
    assert ATTACK in page.locator(".answer .text").nth(1).inner_text()
    page.wait_for_timeout(200)
    assert page.title() == "small – posttrain"
    assert page.locator("img").count() == 0
    assert opened.problems == []


def test_dark_mode_comes_from_the_system_and_by_a_switch(browser: Any, small_run: Path) -> None:
    made = Opened(browser, (small_run / "report.html").as_uri(), color_scheme="dark")
    page = made.page
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.locator("#curves").scroll_into_view_if_needed()
    page.locator(".plot canvas").first.wait_for()
    page.click("#theme")
    light = page.evaluate(background)
    assert dark != light
    assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
    page.click("#theme")
    assert page.evaluate(background) == dark
    assert made.problems == []
    made.context.close()


def test_a_phone_scrolls_no_page_sideways(browser: Any, small_run: Path) -> None:
    made = Opened(browser, (small_run / "report.html").as_uri(), viewport={"width": 380, "height": 800})
    page = made.page
    for details in page.locator("details").all():
        details.evaluate("node => node.open = true")
    page.locator(".group > button").first.click()
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("canvas").wait_for(timeout=5000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    made.context.close()


def test_thousands_of_rollouts_do_not_freeze_it(browser: Any, small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    parts = [{"reward": "math", "value": 1.0}]
    row = {
        "mode": "think",
        "task": "math",
        "tokens": 9,
        "finish_reason": "stop",
        "score": 1.0,
        "status": "ok",
        "parts": parts,
    }
    for step in range(4, 12):
        rows = [
            {
                "prompt_id": f"{step}-{p}",
                "prompt": f"number {p}?",
                "index": i,
                "text": f"<think>\n{p}\n</think>\n\n{i}",
                **row,
            }
            for p in range(150)
            for i in range(8)
        ]
        write_rows(run / "rl" / "rollouts", rows, f"step-{step:06d}.parquet")
    write_report(read_results(run))
    made = Opened(browser, (run / "report.html").as_uri())
    assert int(made.page.locator("#f-count").inner_text().split(" prompts, ")[1].split()[0]) > 5000
    took = made.page.evaluate(
        """() => { const began = performance.now(), box = document.querySelector("#f-stage");
        box.value = "rl"; box.dispatchEvent(new Event("change")); return performance.now() - began; }"""
    )
    assert took < 1000
    assert made.page.locator(".group").count() == 25
    made.page.click("#more")
    assert made.page.locator(".group").count() == 50
    made.context.close()


def test_a_served_report_shows_what_is_new(browser: Any, small_run: Path) -> None:
    import threading

    from posttrain.pipelines.report.server import ReportServer

    with ReportServer(small_run, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = Opened(browser, server.url)
        assert made.page.locator("h1").inner_text() == "small"
        assert made.problems == []
        assert {url.split("/")[2] for url in made.requests} == {f"127.0.0.1:{server.server_port}"}
        server.shutdown()
        made.context.close()


GIVEN = os.environ.get("POSTTRAIN_REPORT")
"""A report.html that stands already; `.ci/run` gives the quickstart's."""


@pytest.mark.skipif(not GIVEN, reason="POSTTRAIN_REPORT names no report.html")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_given_report_opens_filters_and_asks_for_nothing(browser: Any, scheme: str) -> None:
    path = Path(str(GIVEN)).resolve()
    made = Opened(browser, path.as_uri(), viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page = made.page
    sections = page.locator("section[id]").all()
    assert {"pipeline", "evaluation", "curves", "rollouts", "about"} <= {s.get_attribute("id") for s in sections}
    for section in sections:
        section.scroll_into_view_if_needed()
        assert section.is_visible()
        assert section.inner_text().strip()
    assert page.locator("svg.dag g.stage").count() > 1
    assert page.locator(".matrix .cell").count() > 1
    plots = page.locator(".plot").all()
    assert plots
    for plot in plots:
        plot.scroll_into_view_if_needed()
        plot.locator("canvas").first.wait_for(timeout=5000)
    everything = page.locator("#f-count").inner_text()
    stage = page.locator("#f-stage option").all()[-1].get_attribute("value")
    page.select_option("#f-stage", stage)
    assert page.locator("#f-count").inner_text() != everything
    groups = page.locator(".group")
    assert {text.split()[0] for text in groups.locator(".where").all_inner_texts()} == {stage}
    groups.first.locator("button").first.click()
    assert page.locator(".group.open .answer").first.is_visible()
    light = [int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))]
    assert sum(light[:3]) < 150 if scheme == "dark" else sum(light[:3]) > 600
    assert made.problems == []
    assert made.requests == [path.as_uri()]
    made.context.close()


def test_the_run_has_what_this_test_looks_at(small_run: Path) -> None:
    plan = json.loads((small_run / "plan.json").read_text())
    assert {stage["kind"] for stage in plan["stages"]} == {"sample", "sft", "curate", "grpo", "evaluate"}
