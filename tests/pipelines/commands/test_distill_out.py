"""`posttrain distill --out`: a copy of the finished student, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from posttrain.errors import InputError
from posttrain.folders import copy_whole
from posttrain.pipelines.commands.cli import app
from posttrain.pipelines.commands.distillation import distillation
from posttrain.pipelines.running import run

ASKED = ["distill", "--teacher", "builtin:tiny", "--student", "builtin:tiny-mini", "--prompts", "builtin:arithmetic"]


def call(folder: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """The command, with a run that leaves a student and ends with `code`."""

    def ran(loaded: Any, run_dir: Path, **_: Any) -> int:
        (run_dir / "on_policy" / "artifact").mkdir(parents=True)
        (run_dir / "on_policy" / "artifact" / "model.safetensors").write_bytes(b"weights")
        assert "on_policy" in loaded.recipe.stages
        return code

    monkeypatch.setattr(run, "run_recipe", ran)
    out = folder / "student"
    return CliRunner().invoke(app, [*ASKED, "--run-dir", str(folder / "run"), "--out", str(out)]), out


def test_the_student_is_copied_once_the_run_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, out = call(tmp_path, 0, monkeypatch)
    assert result.exit_code == 0
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert str(out) in result.output.replace("\n", "")


@pytest.mark.parametrize("code", [1, 3])
def test_a_run_that_did_not_end_well_leaves_no_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    result, out = call(tmp_path, code, monkeypatch)
    assert result.exit_code == code
    assert not out.exists()


@pytest.mark.parametrize(
    ("mode", "flagged"), [("mixed", "mixed"), ("think", "mixed"), ("default", None), ("closed", None)]
)
def test_a_teacher_without_flags_is_asked_without_and_so_is_the_student(mode: str, flagged: str | None) -> None:
    made = distillation(
        "builtin:tiny", "builtin:tiny-mini", "builtin:arithmetic", steps=1, off_policy_steps=1, max_tokens=4,
        verify=False, mode=mode,
    ).recipe.stages  # fmt: skip
    asked = [made[name].prompts[0].mode for name in ("teacher_responses", "on_policy")]  # type: ignore[union-attr]
    assert asked == [mode, mode]
    assert made["off_policy"].data[0].flag == flagged  # type: ignore[union-attr]


def test_a_folder_with_something_in_it_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine").write_text("keep")
    result, out = call(tmp_path, 0, monkeypatch)
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "run").exists()
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").symlink_to("nowhere")
    with pytest.raises(OSError, match="No such file"):
        copy_whole(source, tmp_path / "there" / "copy")
    assert list((tmp_path / "there").iterdir()) == []


def test_an_empty_folder_becomes_the_copy(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("1")
    (tmp_path / "copy").mkdir()
    copy_whole(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy" / "a").read_text() == "1"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(InputError, match="isn't empty"):
        copy_whole(tmp_path / "source", tmp_path / "copy")
