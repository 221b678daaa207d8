"""The YAML reader: plain data, lines, and nothing that can hurt."""

from __future__ import annotations

import pytest

from posttrain.configs.loading.document import parse_document
from posttrain.errors import RecipeError


def data(text: str) -> object:
    return parse_document(text, "r.yaml").data


def test_scalars_follow_yaml_1_2() -> None:
    assert data("[1e-4, -1.5, .5, 10_000, 0x1F, true, no, off, ~, 2020-01-01, 1:30, 010, '']") == [
        1e-4, -1.5, 0.5, 10000, 31, True, "no", "off", None, "2020-01-01", "1:30", "010", "",
    ]  # fmt: skip


def test_every_key_and_item_has_its_line() -> None:
    document = parse_document("a: 1\nb:\n  c: [x,\n    y]\n", "r.yaml")
    places = [document.where(path) for path in (("a",), ("b", "c"), ("b", "c", 1), ("b", "new"))]
    assert places == ["r.yaml:1", "r.yaml:3", "r.yaml:4", "r.yaml:2"]


def test_merge_keys_fill_in_what_the_mapping_leaves_out() -> None:
    assert data("x: &x {p: 1, q: 2}\ny: {<<: *x, q: 3}")["y"] == {"p": 1, "q": 3}  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml:3: the key `a` appears twice"),
        ("a: !!python/object/apply:os.system x", "isn't allowed"),
        ("a: !!binary aGk=", "isn't allowed"),
        ("a: !!int x", "invalid literal"),
        ("a: &a [*a]", "aliases expand"),
        ("a: &a {<<: *a}", "aliases expand"),
        ("a: " + "[" * 10_000, "nested deeper"),
        ("a: b: c", "r.yaml:1: not YAML"),
        ("a: !!python/object/apply:os.system [x]", "isn't allowed"),
        ("a: {b: ${C}}", "put quotes around"),
        ("? [a]\n: 1", "a key is a plain word"),
        ("--- a\n--- b", "not YAML"),
    ],
)
def test_refuses(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=r".") as caught:
        parse_document(text, "r.yaml")
    assert says in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(RecipeError, match="aliases expand"):
        parse_document("\n".join(levels), "r.yaml")
