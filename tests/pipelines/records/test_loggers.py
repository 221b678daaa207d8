"""Loggers: what they write is theirs to read; what they raise is nobody's to suffer."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest

from posttrain.errors import InputError
from posttrain.pipelines.records import loggers
from posttrain.pipelines.records.loggers import SafeLoggers
from posttrain.pipelines.records.logs import MetricFile


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs posttrain[{package}]")


def log_some(name: str, run_dir: Path) -> list[Exception]:
    """Three steps of two metrics through the logger `name`; what it raised."""
    (run_dir / "rl").mkdir(parents=True)
    failed: list[Exception] = []
    safe = SafeLoggers([name], run_dir, "run", "rl", lambda name, error: failed.append(error))
    metrics = MetricFile(run_dir / "rl" / "metrics.jsonl", lambda logged: None, safe)
    for step in range(3):
        metrics.write(step, {"reward": step / 2, "reward/math": float("nan") if step == 1 else 1.0})
    metrics.close()
    return failed


class Broken:
    """Fails at the second step."""

    steps = 0

    def __init__(self, run_dir: Path, run: str, stage: str) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        Broken.steps += 1
        if step:
            raise OSError("the disk of the logger is full")

    def close(self) -> None: ...


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    Broken.steps = 0
    monkeypatch.setattr(loggers, "find_spec", lambda name: name)
    monkeypatch.setattr(loggers, "LOGGERS", {"wandb": Broken})


def test_a_logger_that_raises_never_stops_training_and_is_named_once(runner: Any, broken: None) -> None:
    assert runner.run("logging.to=[wandb]", until="queries") == 0
    assert Broken.steps == 2  # the one that failed was the last it was asked
    assert runner.printed.count("wandb failed and is left out from here on: OSError: the disk") == 1
    events = [json.loads(line) for line in (runner.run_dir / "events.jsonl").read_text().splitlines()]
    assert [event["logger"] for event in events if event["event"] == "logger failed"] == ["wandb"]
    assert len((runner.run_dir / "queries" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_logger_that_cannot_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run_dir: Path, run: str, stage: str) -> Any:
        raise RuntimeError("no login")

    monkeypatch.setattr(loggers, "LOGGERS", {"wandb": refuse})
    assert [str(error) for error in log_some("wandb", tmp_path)] == ["no login"]


def test_a_missing_package_is_refused_at_once_with_what_installs_it(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'posttrain\[trackio\]'"):
        runner.run("logging.to=[trackio]")
    assert runner.worked == []


def test_loggers_change_no_key(runner: Any, broken: None) -> None:
    runner.run()
    runner.run("logging.to=[wandb]")
    assert runner.worked == []


def test_pandas_reads_the_metrics(runner: Any) -> None:
    runner.run(until="queries")
    table = pandas.read_json(runner.run_dir / "queries" / "metrics.jsonl", lines=True)
    assert table["step"].tolist() == [0, 1, 2]
    assert table["loss"].tolist() == pytest.approx([1.0, 0.5, 1 / 3])


@needs("tensorboard")
def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert log_some("tensorboard", tmp_path) == []
    read = EventAccumulator(str(tmp_path / "rl" / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("reward")] == [(0, 0.0), (1, 0.5), (2, 1.0)]


@needs("trackio")
def test_trackio_keeps_its_database_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    assert log_some("trackio", tmp_path) == []
    (database,) = (tmp_path / "trackio").glob("run*.db")
    rows = sqlite3.connect(database).execute("select step, metrics from metrics order by step").fetchall()
    assert [step for step, _ in rows] == [0, 1, 2]


@needs("wandb")
def test_wandb_writes_offline_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert log_some("wandb", tmp_path) == []
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
