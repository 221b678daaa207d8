"""The command as a person calls it: exit codes, messages without tracebacks, JSON where a program reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("steps: 4", "stesp: 4", "r.yaml:7: stages.cold.stesp: unknown key; did you mean `steps`?"),
        ("steps: 4", "steps: four", "r.yaml:7: stages.cold.steps: should be a valid integer"),
        ("model: cold, prompts", "model: fusion, prompts", "in a circle: rl -> fusion -> rl"),
        ("model: cold, prompts", "model: clod, prompts", "did you mean `cold`?"),
        ("a.jsonl", "c.jsonl", "there is no file"),
        ("rewards: math", "rewards: maths", "there is no reward 'maths'"),
        ("rewards: math", "rewards: mine.py:score", "mine.py"),
    ],
)
def test_wrong_input_exits_2_teaches_and_starts_nothing(
    runner: Any, old: str, new: str, says: str, posttrain: Any
) -> None:
    assert old in runner.text
    runner.recipe.write_text(runner.text.replace(old, new, 1))
    before = sorted(path.name for path in runner.folder.iterdir())
    done = posttrain("run", "r.yaml", cwd=runner.folder)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in runner.folder.iterdir()) == before


def test_an_unknown_option_exits_2(tmp_path: Path, posttrain: Any) -> None:
    assert posttrain("run", "starter", "--untli", "x", cwd=tmp_path).returncode == 2
    assert posttrain("sandbox", "judge", "--min-tier", "Z", cwd=tmp_path).returncode == 2
    assert posttrain("status", "nowhere", cwd=tmp_path).returncode == 2
    assert posttrain("generate", "nowhere", "--prompt", "x", cwd=tmp_path).returncode == 2


def test_a_prompt_without_the_column_a_reward_reads_is_refused(runner: Any, posttrain: Any) -> None:
    with (runner.folder / "a.jsonl").open("a") as file:
        file.write('{"prompt": "no answer here?"}\n')
    # `curate` drops such rows with the reason; RL on the file itself can't judge them.
    runner.recipe.write_text(runner.text.replace("model: cold, prompts: queries", "model: cold, prompts: a.jsonl"))
    done = posttrain("run", "r.yaml", cwd=runner.folder)
    assert done.returncode == 2
    assert "a.jsonl: row 4" in done.stderr
    assert "'answer'" in done.stderr


def test_plan_says_what_and_why_as_json(runner: Any, posttrain: Any) -> None:
    runner.run(until="rl")
    options = ("stages.rl.group_size=4", "--run-dir", "run", "--json", "--check")
    done = posttrain("plan", "r.yaml", *options, cwd=runner.folder)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    actions = {stage["name"]: (stage["action"], stage["why"]) for stage in plan["stages"]}
    assert actions["cold"] == ("reuse", "done")
    assert actions["rl"] == ("run", "changed: group_size 8 -> 4")
    assert actions["fusion"] == ("run", "never run")
    assert plan["data"] == [
        {"stage": "eval-fusion", "from": "builtin:arithmetic", "rows": 1000,
         "columns": ["answer", "domain", "key", "prompt", "solution", "task"]}
    ]  # fmt: skip
    assert plan["stages"][2]["estimate"]["tokens"] == 4 * 32 * 1024


def test_status_as_json_and_report(runner: Any, posttrain: Any) -> None:
    runner.take_finished()
    done = posttrain("status", "run", "--json", cwd=runner.folder)
    stages = json.loads(done.stdout)["stages"]
    assert stages["cold"]["state"] == "done"
    assert stages["cold"]["metrics"] == {"loss": 0.3}
    assert len(stages["cold"]["key"]) == 64
    (runner.run_dir / "report.html").unlink()
    done = posttrain("report", "run", cwd=runner.folder)
    assert "fusion:sums:default:accuracy = 0.800 [0.80, 0.80] (n=9)" in done.stdout
    page = (runner.run_dir / "report.html").read_text()
    assert "PASS" in page
    assert '<script src="http' not in page


HEAVY = ("torch", "transformers", "ray", "deepspeed", "datasets", "pandas", "trl")


def test_a_plan_answers_at_once_for_it_loads_nothing_heavy(runner: Any) -> None:
    code = "import sys\nfrom posttrain.pipelines.commands.cli import main\n"
    code += "try: main()\nfinally: print('loaded', *sys.modules)"
    command = [sys.executable, "-c", code, "plan", "r.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runner.folder, timeout=120)
    loaded = done.stdout.split("loaded")[-1].split()
    assert "posttrain.pipelines.planning.plan" in loaded, done.stderr
    assert [name for name in HEAVY if name in loaded] == []


def test_init_writes_a_recipe_that_plans(tmp_path: Path, posttrain: Any) -> None:
    assert posttrain("init", "mine.yaml", cwd=tmp_path).returncode == 0
    assert posttrain("plan", "mine.yaml", "--check", cwd=tmp_path).returncode == 0
    assert posttrain("init", "mine.yaml", cwd=tmp_path).returncode == 2


def test_init_into_a_folder_that_is_not_there_says_how_to_make_it(tmp_path: Path, posttrain: Any) -> None:
    done = posttrain("init", "nodir/x.yaml", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "nodir/x.yaml: there is no folder nodir" in done.stderr
    assert "mkdir -p nodir" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nofile.py:f"], "no file"),
        (["mine.py:g"], "defines no 'g'"),
        (["regex"], "--params"),
        (["regex", "--params", "pattern=4"], "--params: not JSON"),
        (["regex", "--params", '"4"'], "--params: parameters are a JSON object"),
    ],
)
def test_a_reward_that_can_not_be_tried_exits_2_and_teaches(
    tmp_path: Path, arguments: list[str], says: str, posttrain: Any
) -> None:
    (tmp_path / "mine.py").write_text("def f(prompts, completions): ...")
    done = posttrain("rewards", "score", *arguments, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert says in done.stderr


def test_a_reward_is_tried_with_parameters(tmp_path: Path, posttrain: Any) -> None:
    lines = '{"id": 1, "completion": "42"}\n{"id": 2, "completion": "24"}\n'
    done = posttrain("rewards", "score", "regex", "--params", '{"pattern": "^4"}', cwd=tmp_path, stdin=lines)
    assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == [1.0, 0.0]


def test_schema_is_json(tmp_path: Path, posttrain: Any) -> None:
    assert "stages" in json.loads(posttrain("schema", cwd=tmp_path).stdout)["$defs"]["Recipe"]["properties"]


def test_what_is_written_says_what_was_asked(runner: Any) -> None:
    runner.run("stages.rl.steps=3")
    assert (runner.run_dir / "recipe.yaml").read_text() == runner.text
    resolved = yaml.safe_load((runner.run_dir / "resolved.yaml").read_text())
    assert resolved["stages"]["rl"]["steps"] == 3
    assert resolved["stages"]["rl"]["clip"] == [0.2, 0.28]
    assert "torch" in json.loads((runner.run_dir / "environment.json").read_text())["packages"]
    events = [json.loads(line) for line in (runner.run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[:3]] == ["start", "stage start", "stage done"]
    assert events[-1] == events[-1] | {"event": "end", "exit_code": 0}


def test_ray_and_torch_stay_asleep_when_everything_is_reused(runner: Any) -> None:
    runner.take_finished()
    script = (
        "import sys\n"
        "sys.argv = ['posttrain', 'run', 'r.yaml', '--run-dir', 'run']\n"
        "from posttrain.pipelines.commands.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('HEAVY', *(m for m in ('torch', 'ray', 'transformers') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=runner.folder, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "[7/7] eval-fusion (evaluate): reused" in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
