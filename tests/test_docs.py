"""The documentation: links and anchors lead somewhere, generated pages are complete, named functions exist."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from posttrain.configs.loading.editors import json_schema

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
FOLDERS = (".", "docs", "examples", "benchmarks", ".github")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in ((ROOT / folder).glob("*.md") if folder == "." else (ROOT / folder).rglob("*.md"))
)


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = {f"docs/{path}" for path in hooks().GENERATED}


def prose(page: str) -> str:
    """The page without fenced code."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text("utf-8"), flags=re.S | re.M)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def links(page: str) -> Iterator[tuple[str, str]]:
    """(path from the root, anchor) of each relative link and picture."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page))):
        if not target.startswith(("http", "mailto:")):
            path, _, anchor = target.partition("#")
            yield os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page, anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_lead_somewhere(page: str) -> None:
    broken = [
        f"{path}#{anchor}"
        for path, anchor in links(page)
        if path not in GENERATED
        and (not (ROOT / path).exists() or (anchor and path.endswith(".md") and anchor not in anchors(path)))
    ]
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)

    def listed(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield f"docs/{node}"
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from listed(part)

    assert sorted(listed(config["nav"])) == sorted({*(p for p in PAGES if p.startswith("docs/")), *GENERATED})


def test_the_reference_has_every_field_of_a_recipe() -> None:
    page = hooks().recipe_page()
    nodes = {name: node for name, node in json_schema()["$defs"].items() if not name.endswith("Change")}
    for name, node in nodes.items():
        assert f"{{#{name.lower()}}}" in page, name
        for field in node.get("properties", {}):
            assert f"| `{field}` |" in page, f"{name}.{field}"
    targets = re.findall(r"\]\(#(\w+)\)", page)
    assert {target for target in targets if f"{{#{target}}}" not in page} == set()


def test_the_reference_has_every_command() -> None:
    page = hooks().command_page()
    for command in ("run", "plan", "status", "rewards score", "sandbox judge", "data show", "schema"):
        assert f"## posttrain {command}\n" in page


def test_the_names_of_the_walk_exist() -> None:
    names = re.findall(r"`(posttrain(?:\.\w+)+)`", (DOCS / "follow-one-prompt.md").read_text("utf-8"))
    names += re.findall(r"`(posttrain(?:\.\w+)+)`", (DOCS / "how-it-works.md").read_text("utf-8"))
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_every_function_of_the_python_page_exists() -> None:
    for name in re.findall(r"^::: (\S+)$", (DOCS / "reference/python.md").read_text("utf-8"), re.M):
        module, _, attribute = name.rpartition(".")
        assert name == "posttrain.errors" or hasattr(importlib.import_module(module), attribute), name
