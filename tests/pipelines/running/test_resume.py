"""A run that is killed or told to stop, and then run again, ends as one that never was: bit for bit.

What is killed or stopped is a command. What goes on is one once; else, as what was never stopped, it runs in this
process, on actors that were at other runs before: to start them is most of a small run's time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe

RECIPE = """name: resume
seed: 5
base: builtin:tiny
cluster:
  learner: {workers: 1, zero: 1, threads: 1}
  rollout: {workers: 1, threads: 1}
stages:
  rl:
    kind: grpo
    model: base
    prompts: {from: builtin:arithmetic, n: 8}
    rewards: [math, format, {use: spread.py:spread}]
    prompts_per_step: 4
    group_size: 4
    minibatches: 2
    steps: 6
    checkpoint_every: 2
    # All that has a state of its own.
    dynamic_sampling: {extra: 0.5}
    difficulty: {easy: 0.5, hard: 0.2, keep: 0.5}
    entropy: {band: [9.0, 9.1], step: 0.001}
    kl: {weight: 0.01, refresh_every: 2}
    watch: {prompts: {from: builtin:arithmetic, n: 3, split: heldout}, rewards: [{use: spread.py:spread}], every: 2}
    optimizer: {lr: 1.0e-3, schedule: linear}
    sampling: {max_tokens: 12}
"""

# Untrained models rarely answer rightly: this reward tells members of a group apart whenever they differ.
REWARD = """
import zlib

def spread(prompts, completions, **columns):
    return [zlib.crc32(completion[-1]["content"].encode()) % 101 / 100 for completion in completions]
"""

# Generating ahead of training: long completions, so that much is under way whenever it is stopped.
AHEAD = """name: ahead
seed: 5
base: builtin:tiny
cluster:
  learner: {workers: 1, zero: 1, threads: 1}
  rollout: {workers: 1, threads: 1}
logging: {rollouts_every: 1}
stages:
  rl:
    kind: grpo
    model: base
    prompts: {from: builtin:arithmetic, n: 24}
    rewards: [{use: spread.py:spread}]
    prompts_per_step: 4
    group_size: 4
    steps: 6
    checkpoint_every: 2
    asynchronous: {ahead: 2, staleness: 3}
    sampling: {max_tokens: 96}
"""

STOPPED = 143


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("resume")
    (made / "r.yaml").write_text(RECIPE)
    (made / "ahead.yaml").write_text(AHEAD)
    (made / "spread.py").write_text(REWARD)
    return made


class Run:
    """What a run of that name leaves."""

    def __init__(self, folder: Path, name: str) -> None:
        self.run_dir, self.log = folder / name, folder / f"{name}.log"

    def lines(self) -> list[dict[str, Any]]:
        path = self.run_dir / "rl" / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Command(Run):
    """`posttrain run` as a process group of its own, and every process that it has started."""

    def __init__(self, folder: Path, name: str, recipe: str = "r.yaml") -> None:
        super().__init__(folder, name)
        self.mark = f"{name}-{os.getpid()}-{time.monotonic_ns()}"  # all that it starts inherits this
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "posttrain", "run", str(folder / recipe), "--run-dir", str(self.run_dir)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "RESUME_TEST": self.mark},
            )  # fmt: skip

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 200
        while len(self.lines()) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def wait(self) -> int:
        return self.process.wait(timeout=240)

    def survivors(self, seconds: float) -> list[psutil.Process]:
        """Its processes that still live after `seconds`."""
        _, alive = psutil.wait_procs(self._processes(), timeout=seconds)
        return alive

    def _processes(self) -> list[psutil.Process]:
        mine = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RESUME_TEST") == self.mark:
                    mine.append(process)
        return mine

    def end(self) -> None:
        """Ends it, whatever is left of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for process in self.survivors(0):
            process.kill()


@pytest.fixture(scope="module")
def start(folder: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def run(name: str, recipe: str = "r.yaml") -> Command:
        started.append(Command(folder, name, recipe))
        return started[-1]

    yield run
    for command in started:
        command.end()


@pytest.fixture(scope="module")
def finish(folder: Path, kept_run: Callable[..., int]) -> Callable[..., Run]:
    """Runs a recipe to its end, in this process."""

    def run(name: str, recipe: str = "r.yaml") -> Run:
        made, out = Run(folder, name), io.StringIO()
        code = kept_run(load_recipe(folder / recipe), made.run_dir, console=Console(file=out, width=200))
        made.log.write_text(out.getvalue())
        assert code == 0, out.getvalue()
        return made

    return run


@pytest.fixture(scope="module")
def uninterrupted(finish: Callable[..., Run]) -> Run:
    return finish("a")


def weights(run: Run) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(run.run_dir / "rl" / "artifact" / "model.safetensors")


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if not k.startswith("seconds_")} for line in run.lines()]


def assert_equal_runs(got: Run, expected: Run) -> None:
    assert timeless(got) == timeless(expected)
    ours, theirs = weights(got), weights(expected)
    assert set(ours) == set(theirs)
    for name, weight in theirs.items():
        assert np.array_equal(ours[name], weight), name


def test_the_run_learns_at_every_step(uninterrupted: Run) -> None:
    # Else the comparisons below would hold for a learner that does nothing.
    from safetensors.numpy import load_file

    from posttrain.stages.models.locations import builtin_path

    lines = uninterrupted.lines()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["advantage_std"] > 0 and line["grad_norm"] > 0 for line in lines)
    base = load_file(Path(str(builtin_path("builtin:tiny"))) / "model.safetensors")
    assert all(not np.array_equal(weight, base[name]) for name, weight in weights(uninterrupted).items())


def test_a_killed_run_goes_on_as_if_it_never_was(
    uninterrupted: Run, start: Callable[..., Command], finish: Callable[..., Run]
) -> None:
    first = start("killed")
    first.wait_for_steps(3)
    os.killpg(first.process.pid, signal.SIGKILL)
    assert first.process.wait(timeout=30) == -signal.SIGKILL
    assert not (first.run_dir / "rl" / "artifact").exists()
    assert first.survivors(60) == []
    again = finish("killed")
    assert "resumed at step" in again.log.read_text()
    assert_equal_runs(again, uninterrupted)


def test_a_stopped_run_saves_and_goes_on(
    uninterrupted: Run, start: Callable[..., Command], finish: Callable[..., Run]
) -> None:
    first = start("stopped")
    first.wait_for_steps(1)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == STOPPED, first.log.read_text()
    saved = len(first.lines())
    assert 1 <= saved < 6
    assert (first.run_dir / "rl" / "checkpoints" / f"step-{saved:06d}").is_dir()
    assert first.survivors(60) == []
    again = finish("stopped")
    assert f"resumed at step {saved}" in again.log.read_text()
    assert_equal_runs(again, uninterrupted)


# ---------------------------------------------------------------- asynchronous


def trained(run: Run) -> list[list[str]]:
    """By step: the prompt of each group that was trained on."""
    import pyarrow.parquet as parquet

    steps = []
    for path in sorted((run.run_dir / "rl" / "rollouts").glob("step-*.parquet")):
        rows = parquet.read_table(path).to_pylist()
        steps.append(sorted(row["prompt_id"] for row in rows if row["index"] == 0))
    return steps


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_asynchronous_run_loses_nothing_and_trains_nothing_twice(
    start: Callable[..., Command], finish: Callable[..., Run], how: signal.Signals
) -> None:
    name = f"ahead-{how.name}"
    first = start(name, "ahead.yaml")
    first.wait_for_steps(2 if how == signal.SIGTERM else 3)
    if how == signal.SIGTERM:
        first.process.send_signal(how)
        assert first.wait() == STOPPED, first.log.read_text()
    else:
        os.killpg(first.process.pid, how)
        first.process.wait(timeout=30)
    assert first.survivors(60) == []
    newest = sorted((first.run_dir / "rl" / "checkpoints").glob("step-*"))[-1]
    kept = [json.loads(line) for line in (newest / "underway.jsonl").read_text().splitlines()][1:]
    tokens = {
        line["id"]: {c["index"]: c["token_ids"] for c in line["completions"]} for line in kept if line["completions"]
    }
    assert any(ids for group in tokens.values() for ids in group.values()), "nothing was under way: the test is void"
    again = finish(name, "ahead.yaml")
    steps = trained(again)
    names = [prompt for step in steps for prompt in step]
    assert [len(step) for step in steps] == [4] * 6
    assert len(set(names)) == 24
    assert len({name.split("+")[0] for name in names}) == 24  # each of the 24 prompts, once
    assert {line["id"] for line in kept} <= set(names)
    lines = again.lines()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert max(line["stale_versions_max"] for line in lines) <= 3
    assert max(line["stale_versions"] for line in lines) > 0
