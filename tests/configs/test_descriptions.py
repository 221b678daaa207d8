"""Every setting of a recipe has a description, a sentence that a person can read, and it names documents that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from posttrain.configs.loading.editors import json_schema

ROOT = Path(__file__).resolve().parents[2]


def settings() -> Iterator[tuple[str, str]]:
    """The name and the description of every setting, by node."""
    for node, schema in json_schema()["$defs"].items():
        for name, setting in schema.get("properties", {}).items():
            yield f"{node}.{name}", setting.get("description", "")


def test_no_setting_lacks_a_description() -> None:
    assert len(list(settings())) > 250
    assert [name for name, text in settings() if not text] == []


def test_a_description_is_a_sentence() -> None:
    assert [name for name, text in settings() if not re.fullmatch(r"(?:[A-Z`]|vLLM: ).{8,}\.", text)] == []


def test_a_description_names_no_document_that_is_missing() -> None:
    named = {(name, path) for name, text in settings() for path in re.findall(r"[\w/-]+\.md\b", text)}
    assert [(name, path) for name, path in named if not (ROOT / path).exists()] == []
    assert [name for name, text in settings() if "DESIGN" in text or "HOUSE" in text] == []
