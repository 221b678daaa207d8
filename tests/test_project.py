"""The project's manners: one version, files that a public project has, hooks and workflows that call what exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

import posttrain

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_version_is_one() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "posttrain.__version__"}
    assert version("posttrain") == posttrain.__version__
    script = "import posttrain; print(posttrain.__version__)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    assert printed.strip() == posttrain.__version__
    named = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert not named or named[0] == posttrain.__version__


def test_the_changelog_has_a_section_for_what_comes_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text
    assert set(re.findall(r"^### (\w+)$", text, re.M)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_the_citation_and_the_workflows_are_yaml_and_call_what_exists() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["license"] == PROJECT["project"]["license"]
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text("utf-8"))
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    called = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert called == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_every_hook_is_a_tool_of_the_development_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    wanted = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert wanted == {"ruff", "codespell", "mypy"}
    extras = " ".join(PROJECT["project"]["optional-dependencies"]["dev"])
    assert all(tool in extras for tool in wanted)
