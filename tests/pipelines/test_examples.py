"""The examples run as they are, one after the other in one folder, as their first lines say."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OTHERS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "first_run.py")

pytestmark = pytest.mark.examples


@pytest.fixture(scope="module")
def folder(kept_run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first example ran."""
    made = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("posttrain.pipelines.running.run.run_recipe", kept_run)
        patch.chdir(made)
        runpy.run_path(str(EXAMPLES / "first_run.py"), run_name="__main__")
    return made


def test_the_first_example_leaves_a_model_and_a_report(folder: Path) -> None:
    assert (folder / "runs/first-run/report.html").is_file()
    assert (folder / "runs/first-run/reasoning_rl/artifact/config.json").is_file()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.usefixtures("kept_workers")
def test_an_example_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_the_cells_of_the_notebook_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "outputs age: clear them before a commit"
            exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)
    assert names["run"]._repr_html_()


def test_the_documentation_lists_every_example() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    assert [
        path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb") if path.name not in listed
    ] == []
