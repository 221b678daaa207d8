"""From a file or a packaged name to a checked recipe: YAML, overrides, environment, schema.

text --document--> plain data --extends--> --expand--> --overrides--> raw --resolve--> --schema--> Recipe
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from posttrain.configs.loading import shape
from posttrain.configs.loading.document import Document, parse_document, read_document
from posttrain.configs.loading.inheritance import KEY, inherit
from posttrain.configs.loading.problems import Problem, closest, dotted, meant, problems_of, recipe_error
from posttrain.configs.loading.references import keep_references, mask, mask_data, resolve, values
from posttrain.configs.nodes.judges import LITERAL_KEY, literal_keys
from posttrain.configs.nodes.own_kinds import is_own, known, load_kind
from posttrain.configs.nodes.strict import Path_
from posttrain.configs.schema import Recipe, StageBase
from posttrain.configs.tasks import expand_tasks
from posttrain.errors import InputError, PosttrainError, RecipeError

PACKAGED = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A recipe that passed the schema, and what it was read from."""

    recipe: Recipe
    """With values from the environment: what stages see."""
    path: Path
    recipe_dir: Path
    """Relative paths in the recipe start here."""
    source: str
    """The file's text."""
    raw: Mapping[str, Any]
    """Plain data with overrides, short forms written out, and references kept."""
    resolved: Mapping[str, Any]
    """Everything, defaults included, with references kept: what is written and hashed."""
    document: Document = field(repr=False)
    overrides: tuple[str, ...] = ()
    origins: Mapping[Path_, str] = field(default_factory=dict)
    """The override that said it, by path."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment variables that the recipe names, with their values: for `mask` alone."""

    def where(self, path: Path_) -> str:
        """`file:line` of a path of the recipe, or the override that it comes from."""
        return _where(self.document, self.origins, path)

    def mask(self, text: str) -> str:
        """`text` without values from the environment."""
        return mask(text, self.secrets)

    def mask_data(self, data: Any) -> Any:
        """`mask` for every string in plain data."""
        return mask_data(data, self.secrets)

    @contextmanager
    def masking(self) -> Iterator[None]:
        """Errors raised inside leave without values from the environment."""
        try:
            yield
        except PosttrainError as error:
            texts = [self.mask(text) if text else text for text in (error.what, error.where, error.fix)]
            if texts == [error.what, error.where, error.fix]:
                raise
            raise type(error)(texts[0] or "", where=texts[1], fix=texts[2]) from None


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load_recipe(ref: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load the recipe `ref` (a path or a packaged name) and apply `overrides` like `stages.rl.steps=50`.

    Raises:
        RecipeError: there is no such recipe, or it doesn't say something valid; the message has all problems.
    """
    path = _find(ref)
    return _load(read_document(path), path, path.resolve().parent, overrides)


def recipe_from_data(
    data: Mapping[str, Any], recipe_dir: Path, origin: str, overrides: Sequence[str] = ()
) -> LoadedRecipe:
    """Load a recipe built in memory; `origin` names it in errors. Raises RecipeError."""
    text = yaml.safe_dump(dict(data), sort_keys=False)
    return _load(parse_document(text, origin), Path(origin), recipe_dir, overrides)


def _find(ref: str | Path, folder: Path = Path()) -> Path:
    """The file of a recipe: a path from `folder`, or a packaged name. Raises RecipeError."""
    name = str(ref)
    try:
        path = folder / Path(ref).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name too long for the system, or ~ of nobody
        raise RecipeError(f"no recipe can have this name: {error}", where=name[:80], fix="give a path") from error
    if (packaged := PACKAGED / f"{name}.yaml").is_file() and "/" not in name:
        return packaged
    near = get_close_matches(name, packaged_recipes(), n=1)
    fix = f"did you mean `{near[0]}`?" if near else f"packaged recipes: {', '.join(packaged_recipes()) or 'none'}"
    raise RecipeError("no such recipe: neither a file nor a packaged name", where=name, fix=fix)


def _load(document: Document, path: Path, recipe_dir: Path, overrides: Sequence[str]) -> LoadedRecipe:
    if not isinstance(document.data, dict):
        raise RecipeError("a recipe is a mapping: `name: ...`, `stages: ...`", where=str(path))
    document = inherit(document, path, _find)
    with known(_own_kinds(document, recipe_dir)):
        return _check(document, path, recipe_dir, overrides)


def _own_kinds(document: Document, recipe_dir: Path) -> dict[str, type[StageBase]]:
    """The kinds of stage that the recipe brings, by name. Raises RecipeError."""
    stages = document.data.get("stages")
    found: dict[str, type[StageBase]] = {}
    for name, node in stages.items() if isinstance(stages, dict) else ():
        kind = node.get("kind") if isinstance(node, dict) else None
        if is_own(kind):
            try:
                found[kind] = load_kind(kind, recipe_dir)
            except RecipeError as error:
                raise RecipeError(error.what, where=document.where(("stages", name, "kind")), fix=error.fix) from error
    return found


def _check(document: Document, path: Path, recipe_dir: Path, overrides: Sequence[str]) -> LoadedRecipe:
    raw: dict[str, Any] = shape.expand(document.data)
    origins: dict[Path_, str] = {}
    for override in overrides:
        origins[_override(raw, override)] = override

    where = partial(_where, document, origins)
    missing: list[Problem] = []

    def unset(at: Path_, name: str) -> None:
        what = f"the environment variable {name} isn't set; set it, or write ${{{name}:-default}}"
        missing.append(Problem(path=at, what=what))

    data = resolve(raw, os.environ, unset)
    if missing:
        raise recipe_error(missing, where)
    if wrong := expand_tasks(raw):
        raise recipe_error(wrong, where)
    if literal := [Problem(path=at, what=LITERAL_KEY) for at in literal_keys(raw)]:
        raise recipe_error(literal, lambda at: where(at).partition("=")[0])  # an override's value is the key
    data = resolve(raw, os.environ, unset)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise recipe_error(problems_of(error, data, raw), where) from None
    resolved = keep_references(recipe.model_dump(mode="json", by_alias=True), raw)
    return LoadedRecipe(
        recipe=recipe,
        path=path,
        recipe_dir=recipe_dir,
        source=document.text,
        raw=raw,
        resolved=resolved,
        overrides=tuple(overrides),
        origins=origins,
        secrets=values(raw, os.environ),
        document=document,
    )


def _where(document: Document, origins: Mapping[Path_, str], path: Path_) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return f"override {origins[path[:length]]}"
    return document.where(path)


def _override(raw: dict[str, Any], text: str) -> Path_:
    """Apply `a.b=c` to `raw` in place and return its path."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError("an override is key=value, like stages.rl.steps=50", where=f"override {text}")
    path: Path_ = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    if path[0] == KEY:
        raise InputError(f"`{KEY}` is said in the file: overrides come after it", where=f"override {text}")
    node: Any = raw
    for index, part in enumerate(path):
        at = path[:index]
        annotation = shape.type_at(at, raw)
        known = shape.below(annotation, part, node) is not None
        if at == ("stages",) and part not in node:  # a mapping of any names, but an override can't add a stage
            raise RecipeError(f"no such stage; {closest(str(part), node)}", where=f"override {text}")
        if not known or (isinstance(node, list) and not (isinstance(part, int) and part < len(node))):
            valid = [str(i) for i in range(len(node))] if isinstance(node, list) else shape.keys(annotation, node)
            what = f"{dotted((*at, part))}: no such key; {meant(str(part), valid, at, raw)}"
            raise RecipeError(what, where=f"override {text}")
        if index < len(path) - 1:
            if isinstance(node, dict) and not isinstance(node.get(part), dict | list):
                node[part] = {}  # a mapping that the file left to its defaults
            node = node[part]
    node[path[-1]] = shape.expand(
        parse_document(value, f"override {text}").data if value else "", shape.type_at(path, raw)
    )
    if isinstance(node, dict):
        node.pop(shape.displaced(path, node[path[-1]]), None)
    return path
