"""Running: what is done stays done, what changed runs again, and nothing half-made counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import HandoverError, InputError, RunError, Stopped
from posttrain.pipelines.graph.keys import Hashes
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.results import read_results, status_json
from posttrain.stages.context import StageContext

ALL = ["queries", "chat", "cold", "eval-cold", "rl", "fusion", "eval-fusion"]


def test_a_second_run_reuses_everything(runner: Any) -> None:
    assert runner.run() == 0
    assert runner.worked == ALL
    assert runner.run() == 0
    assert runner.worked == []
    assert "PASS" in runner.printed
    assert f"model: {runner.run_dir / 'fusion' / 'artifact'}" in runner.printed


def test_a_control_is_no_model_of_the_run_and_ends_no_other(runner: Any) -> None:
    control = "stages:\n  shuffled: {kind: grpo, model: fusion, prompts: queries, rewards: math, control: true}\n"
    runner.recipe.write_text(runner.text.replace("stages:\n", control))
    assert runner.run() == 0
    models = [Path(line.removeprefix("model: ")) for line in runner.printed.splitlines() if line.startswith("model: ")]
    assert models == [runner.run_dir / "fusion" / "artifact"]


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("stages.rl.steps=9", ["rl", "fusion", "eval-fusion"]),
        ("stages.fusion.optimizer.lr=1e-3", ["fusion", "eval-fusion"]),
        ("stages.chat.n=2", ["chat", "fusion", "eval-fusion"]),
        ("evaluate.suites.0.k=2", ["eval-cold", "eval-fusion"]),
        ("seed=2", ALL),
        ("cluster.learner.workers=2", []),
        ("cluster.rollout.threads=1", []),
        ("logging.rollouts_every=3", []),
        ("stages.rl.checkpoint_every=3", []),
        ("stages.rl.micro_tokens=64", []),
        ("description=other", []),
        ("thresholds=[]", []),
    ],
)
def test_a_change_reruns_what_it_decides_and_nothing_else(runner: Any, override: str, again: list[str]) -> None:
    runner.take_finished()
    runner.run(override)
    assert runner.worked == again


def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    wanted = ("cluster.rollout.engine=vllm", "cluster.rollout.gpus=1")
    with pytest.raises(InputError, match=r"posttrain\[vllm\]"):
        runner.run(*wanted)
    assert (runner.worked, runner.run_dir.exists()) == ([], False)
    runner.run(*wanted, "cluster.address=auto")  # other hosts have what they have
    assert runner.worked == ALL


def test_an_edited_data_file_reruns_what_reads_it(runner: Any) -> None:
    runner.take_finished()
    with (runner.folder / "b.jsonl").open("a") as file:
        file.write('{"prompt": "new?", "answer": "1"}\n')
    runner.run()
    assert runner.worked == ["chat", "fusion", "eval-fusion"]


def test_what_is_replaced_is_moved_aside(runner: Any) -> None:
    runner.take_finished()
    before = Ledger(runner.run_dir).recorded("fusion")["key"]
    runner.run("stages.fusion.steps=1")
    kept = runner.run_dir / ".replaced" / f"fusion-{before[:8]}-1" / "artifact" / "result.txt"
    assert kept.read_text() == "fusion ['chat', 'queries', 'rl']"


def test_force_reruns_a_stage_and_what_needs_it(runner: Any) -> None:
    runner.take_finished()
    runner.run(force=("rl",))
    assert runner.worked == ["rl", "fusion", "eval-fusion"]


def test_until_stops_after_a_stage(runner: Any) -> None:
    assert runner.run(until="cold") == 0
    assert runner.worked == ["queries", "chat", "cold"]
    assert status_json(read_results(runner.run_dir))["stages"]["rl"]["state"] == "pending"
    with pytest.raises(InputError, match="there is no stage 'clod'"):
        runner.run(until="clod")


@pytest.mark.parametrize(
    ("old", "new"),
    [("steps: 4", "stesp: 4"), ("steps: 4", "steps: four"), ("model: rl", "model: rll"), ("a.jsonl", "c.jsonl"),
     ("fusion:sums", "fusion:summs"), (">= 0.1", "> __import__('os')")],
)  # fmt: skip
def test_a_wrong_recipe_starts_nothing(runner: Any, old: str, new: str) -> None:
    runner.recipe.write_text(runner.text.replace(old, new))
    with pytest.raises(InputError) as caught:
        runner.run()
    assert caught.value.exit_code == 2
    assert runner.worked == []
    assert not runner.run_dir.exists()


def test_malformed_data_starts_nothing(runner: Any) -> None:
    with (runner.folder / "b.jsonl").open("a") as file:
        file.write('{"prompt": "new?", \n')
    with pytest.raises(InputError, match=r"b\.jsonl:4"):
        runner.run()
    assert not runner.run_dir.exists()


def test_a_missed_threshold_fails_the_run_after_everything_is_saved(runner: Any) -> None:
    runner.accuracy = {"cold": 0.2, "fusion": 0.25}
    assert runner.run() == 1
    assert "FAIL  fusion:sums:default:accuracy - cold:sums:default:accuracy >= 0.1: 0.05 against 0.1" in runner.printed
    assert Ledger(runner.run_dir).state("eval-fusion")[0] == "done"
    assert (runner.run_dir / "report.html").exists()


def test_a_failing_stage_is_recorded_and_what_came_before_stays(runner: Any) -> None:
    def fail(context: StageContext) -> None:
        if context.name == "rl":
            raise ValueError("the reward broke")

    runner.during = fail
    assert runner.run() == 1
    assert "failed: ValueError: the reward broke" in runner.printed
    events = (runner.run_dir / "events.jsonl").read_text()
    assert "Traceback" in events
    states = {name: state["state"] for name, state in status_json(read_results(runner.run_dir))["stages"].items()}
    assert states == dict.fromkeys(ALL[:4], "done") | {"rl": "failed", "fusion": "pending", "eval-fusion": "pending"}
    runner.during = lambda context: None
    assert runner.run() == 0
    assert runner.worked == ["rl", "fusion", "eval-fusion"]


def test_wrong_input_found_by_a_running_stage_is_a_failure_not_a_refusal(runner: Any) -> None:
    def refuse(context: StageContext) -> None:
        raise InputError("a row is malformed")

    runner.during = refuse
    assert runner.run() == 1


def test_an_interrupted_stage_keeps_its_folder_and_resumes(runner: Any) -> None:
    def stop_once(context: StageContext) -> None:
        checkpoint = context.dir / "checkpoints" / "step-000002"
        if context.name == "rl" and not checkpoint.exists():
            checkpoint.mkdir(parents=True)
            raise Stopped("at step 2")

    runner.during = stop_once
    assert runner.run() == 143
    assert Ledger(runner.run_dir).state("rl") == ("pending", "stopped")
    assert runner.run() == 0
    assert runner.worked == ["rl", "fusion", "eval-fusion"]
    assert not (runner.run_dir / ".replaced").exists()
    assert (runner.run_dir / "rl" / "checkpoints" / "step-000002").exists()


def test_raised_steps_go_on_from_the_last_checkpoint(runner: Any) -> None:
    def checkpoint(context: StageContext) -> None:
        if context.name == "rl":
            (context.dir / "checkpoints" / f"step-{context.spec.steps:06}").mkdir(parents=True)

    runner.during = checkpoint
    runner.run()
    runner.run("stages.rl.steps=9")
    found = {path.name for path in (runner.run_dir / "rl" / "checkpoints").iterdir()}
    assert found == {"step-000006", "step-000009"}
    assert (runner.run_dir / ".replaced").exists()


def test_another_value_of_the_environment_is_another_key(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner.recipe.write_text(runner.text.replace("steps: 4", 'steps: "${STEPS}"'))
    monkeypatch.setenv("STEPS", "4")
    runner.run()
    runner.run()
    assert runner.worked == []
    monkeypatch.setenv("STEPS", "5")
    runner.run()
    assert runner.worked == ["cold", "eval-cold", "rl", "fusion", "eval-fusion"]


def test_a_file_counts_by_its_content_wherever_the_environment_says_it_is(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.recipe.write_text(runner.text.replace("prompts: a.jsonl", 'prompts: "${FOLDER}/big.jsonl"'))
    big = json.dumps({"prompt": "?", "answer": "x" * (1 << 20)}) + "\n"  # files of over a MiB have their hashes kept
    for name in ("canary-one", "canary-two"):
        (runner.folder / name).mkdir()
        (runner.folder / name / "big.jsonl").write_text(big)
    monkeypatch.setenv("FOLDER", "canary-one")
    runner.run()
    monkeypatch.setenv("FOLDER", "canary-two")
    runner.run()
    assert runner.worked == []
    files = [path for path in runner.run_dir.rglob("*") if path.is_file()]
    assert [path for path in files if b"canary-" in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{kind: sample, model: base, prompts: b.jsonl}",) * 2, ""),
        (("prompts: b.jsonl}", "prompts: b.jsonl, filters: [corect]}"), r"r\.yaml:6: no filter 'corect'.*`correct`"),
        (("default:accuracy -", "default:acuracy -"), r"metric 'acuracy'.*`accuracy`"),
        (("prompts: builtin:arithmetic}", "measure: mode_following, prompts: a.jsonl}"), r"a\.jsonl:1: .*queries"),
        (("kind: grpo,", "kind: grpo, sampling: {temperature: 0},"), "whole distribution"),
        (("kind: grpo,", "kind: grpo, clip: [-1, 2],"), "0 < low < 1"),
        (("kind: curate,", "kind: curate, keep: {pass_rate: [0.9, 0.1]},"), "low <= high"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(runner: Any, change: tuple[str, str], message: str) -> None:
    assert change[0] in runner.text
    runner.recipe.write_text(runner.text.replace(*change))
    if not message:
        assert runner.run() == 0
        return
    with pytest.raises(InputError, match=message):
        runner.run()
    assert runner.worked == []


def test_resuming_on_other_shards_is_refused(runner: Any) -> None:
    def stop(context: StageContext) -> None:
        if context.name == "rl":
            (context.dir / "checkpoints" / "step-000002").mkdir(parents=True)
            raise Stopped("at step 2")

    runner.during = stop
    runner.run()
    with pytest.raises(InputError, match=r"set cluster\.learner\.workers=1"):
        runner.run("cluster.learner.workers=2")
    with pytest.raises(InputError, match=r"set cluster\.learner\.zero=2"):
        runner.run("cluster.learner.zero=3")
    recorded = runner.run_dir / "rl" / "spec.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "zero": 1}))
    with pytest.raises(InputError, match="stopped with zero 1 of the learner; it can't resume with 2") as told:
        runner.run("cluster.learner.dtype=bfloat16")  # in which no recipe gets the first stage
    assert told.value.fix == "start it anew with --force rl"


def test_a_damaged_artifact_is_made_again(runner: Any) -> None:
    runner.take_finished()
    (runner.run_dir / "chat" / "artifact" / "result.txt").write_text("short")
    runner.run()
    assert runner.worked == ["chat"]


def test_an_artifact_of_the_right_size_but_wrong_content_is_not_handed_over(runner: Any) -> None:
    runner.take_finished()
    path = runner.run_dir / "chat" / "artifact" / "result.txt"
    path.write_text(path.read_text().swapcase())
    assert runner.run("stages.fusion.steps=1") == 1
    assert "the artifact of `chat` is damaged: result.txt doesn't have the checksum" in runner.printed
    with pytest.raises(HandoverError):
        Ledger(runner.run_dir).hand_over("chat", Hashes())


def test_two_commands_cannot_write_to_one_run(runner: Any) -> None:
    with Ledger(runner.run_dir).lock(), pytest.raises(InputError, match="another command is writing"):
        runner.run()
    assert runner.worked == []


def test_an_artifact_without_files_or_with_links_is_refused(runner: Any, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    empty = tmp_path / "stage" / "empty"
    empty.mkdir(parents=True)
    with pytest.raises(RunError, match="left no files"):
        ledger.finish("stage", empty, "k", {})
    (empty / "link").symlink_to("/etc/hostname")
    with pytest.raises(RunError, match="is a link"):
        ledger.finish("stage", empty, "k", {})


def test_a_secret_of_the_environment_is_in_no_file_of_the_run(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-3fd1c0"
    monkeypatch.setenv("JUDGE_TOKEN", canary)
    text = runner.text.replace("rewards: math", 'rewards: [{use: regex, params: {pattern: "${JUDGE_TOKEN}"}}]')
    runner.recipe.write_text(text)
    seen: list[str] = []

    def leak(context: StageContext) -> None:
        if context.name == "rl":
            seen.append(context.spec.rewards[0].params["pattern"])
            context.say(f"calling the judge with {canary}")
            raise ValueError(f"the judge refused {canary}")

    runner.during = leak
    assert runner.run() == 1
    runner.during = lambda context: None
    assert runner.run() == 0
    assert seen == [canary]
    assert canary not in runner.printed
    files = [path for path in runner.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if canary.encode() in path.read_bytes()] == []
    monkeypatch.setenv("JUDGE_TOKEN", "another")
    runner.run()
    assert runner.worked == []


SCRIPT = """
import sys, time, pathlib, os
sys.path.insert(0, {tests!r})
from tests_conftest import Runner
from posttrain.errors import Stopped
runner = Runner(pathlib.Path({folder!r}))
def during(context):
    {body}
runner.during = during
code = runner.run()
print(runner.printed)
sys.exit(code)
"""


def start(runner: Any, body: str) -> subprocess.Popen[str]:
    """Run the recipe in a process of its own, with `body` inside each stage."""
    here = runner.folder / "harness"
    here.mkdir(exist_ok=True)
    (here / "tests_conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    script = SCRIPT.format(tests=str(here), folder=str(runner.folder), body=body)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_sigterm_saves_and_exits_143(runner: Any) -> None:
    body = """
    if context.name != "cold": return
    (context.dir / "started").touch()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.02)
        if context.stop_requested():
            (context.dir / "checkpoints" / "step-000001").mkdir(parents=True)
            raise Stopped("saved at step 1")
    """
    process = start(runner, body)
    wait_for(runner.run_dir / "cold" / "started")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert "saved at step 1; the same command goes on from here" in out
    assert runner.run() == 0
    assert runner.worked == ALL[2:]


def test_a_crash_between_write_and_rename_leaves_no_half_artifact(runner: Any) -> None:
    body = """
    if context.name != "cold": return
    def die(self, target): os._exit(9)
    pathlib.Path.rename = die
    """
    process = start(runner, body)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 9, out
    folder = runner.run_dir / "cold"
    assert not (folder / "artifact").exists()
    assert list(folder.glob("artifact.tmp-*/manifest.json"))
    assert Ledger(runner.run_dir).state("cold") == ("failed", "it was killed")
    assert runner.run() == 0
    assert runner.worked == ALL[2:]
    assert not list(folder.glob("artifact.tmp-*"))
    assert json.loads((folder / "artifact" / "manifest.json").read_text())["files"]


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def test_running_is_told_while_the_lock_is_held(runner: Any) -> None:
    states: list[str] = []
    runner.during = lambda context: states.append(Ledger(runner.run_dir).state(context.name)[0])
    runner.run()
    assert set(states) == {"running"}
    assert os.listdir(runner.run_dir)


def test_an_edited_reward_file_reruns_what_uses_it(runner: Any) -> None:
    reward = runner.folder / "mine.py"
    reward.write_text("def brevity(completions, **columns):\n    return [1.0 for _ in completions]\n")
    runner.recipe.write_text(runner.text.replace("rewards: math", "rewards: mine.py:brevity"))
    assert runner.run() == 0
    assert runner.run() == 0
    assert runner.worked == []
    reward.write_text(reward.read_text().replace("1.0", "0.5"))
    runner.run()
    assert runner.worked == ["rl", "fusion", "eval-fusion"]


def test_an_edited_base_model_reruns_everything_that_starts_from_it(runner: Any) -> None:
    base = runner.folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    runner.recipe.write_text(runner.text.replace("base: builtin:tiny", "base: ./base"))
    runner.run()
    (base / "config.json").write_text('{"a": 1}')
    runner.run()
    assert runner.worked == ALL[1:]


def test_large_files_are_hashed_once_and_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"a" * (1 << 20))
    hashes = Hashes()
    first = hashes.file(path)
    assert list(hashes.known.values()) == [first]
    hashes.known[next(iter(hashes.known))] = "remembered"
    assert hashes.file(path) == "remembered"
    path.write_bytes(b"b" * (1 << 20))
    os.utime(path, ns=(1, 1))
    assert hashes.file(path) not in (first, "remembered")


def test_a_run_folder_records_its_overrides(runner: Any) -> None:
    assert runner.run("stages.rl.steps=7", until="queries") == 0
    assert json.loads((runner.run_dir / "plan.json").read_text())["overrides"] == ["stages.rl.steps=7"]
