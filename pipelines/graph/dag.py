"""The recipe as a graph: which stage needs which, in what order they run, and what every other reference is.

A reference is what a `from` says: a stage's name, `base`, builtin:NAME, reasoning_gym:TASK, hf:OWNER/NAME,
a file, a folder, or a Hub id. Each is settled here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.loading.problems import closest, dotted
from posttrain.configs.nodes.declaration import Declaration, Gives
from posttrain.configs.nodes.strict import Path_
from posttrain.configs.schema import (
    EnvironmentUse,
    Evaluate,
    ModelSource,
    PromptSource,
    Recipe,
    RewardUse,
    StageBase,
)
from posttrain.errors import InputError, RecipeError
from posttrain.pipelines.graph.model_lookup import HUB_ID

What = Literal["stage", "base", "builtin", "generator", "hub", "file", "folder"]
_SCHEMES: Mapping[str, What] = {"builtin": "builtin", "reasoning_gym": "generator", "hf": "hub"}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One `from` of a stage, settled."""

    at: Path_
    """Where the recipe says it."""
    source: str
    what: What
    wants: Gives
    path: Path | None = None
    """Of a file or folder: where it is."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A stage in the graph; `eval-NAME` stages are expanded from `evaluate`."""

    name: str
    spec: StageBase
    at: Path_
    references: tuple[Reference, ...]
    inputs: tuple[str, ...]
    """Names of the stages it needs."""
    evaluates: str | None = None
    """The stage (or `base`) that an evaluation is of."""

    @property
    def declaration(self) -> Declaration:
        """What the stage declares of itself."""
        return self.spec.declare()

    @property
    def rewards(self) -> tuple[RewardUse, ...]:
        """All rewards that the stage uses, those of its suites too."""
        return tuple(reward.use for reward in self.declaration.rewards)

    @property
    def environments(self) -> tuple[EnvironmentUse, ...]:
        """All environments that the stage's prompts name."""
        found = (asked.source.environment for asked in self.declaration.sources)
        return tuple(use for use in found if use is not None)


def build_dag(loaded: LoadedRecipe) -> dict[str, Node]:
    """All stages by name, in the order they run: an order of the file, moved only where a need demands it.

    Raises:
        RecipeError: a reference to no stage, to a stage that gives something else, or a cycle.
        InputError: a file or folder that isn't there.
    """
    with loaded.masking():
        return _in_order(loaded, _Settler(loaded).nodes())


class _Settler:
    """Builds nodes: expands the evaluations and settles each reference."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self.loaded = loaded
        self.recipe: Recipe = loaded.recipe

    def nodes(self) -> dict[str, Node]:
        recipe, after = self.recipe, self.recipe.evaluate.after
        self._check_base()
        evaluations = _evaluations(self.loaded)
        nodes: dict[str, Node] = {}
        if "base" in after:
            nodes["eval-base"] = self._node("eval-base", evaluations["base"], ("evaluate",), evaluates="base")
        for name, spec in recipe.stages.items():
            model = spec.model if spec.declare().gives == "table" else None
            nodes[name] = self._node(name, spec, ("stages", name), evaluates=model.source if model else None)
            if name in after:
                title = f"eval-{name}"
                if title in recipe.stages:
                    raise self._error(("stages", title), f"`evaluate.after` makes a stage `{title}`; rename this one")
                nodes[title] = self._node(title, evaluations[name], ("evaluate",), evaluates=name)
        return nodes

    def _check_base(self) -> None:
        base = self.recipe.base
        if base is None:
            return
        if base.source == "base" or base.source in self.recipe.stages:
            raise self._error(("base",), "the base is where stages start: name a builtin:, a folder or a Hub id")
        self._settle(base, ("base",))

    def _node(self, name: str, spec: StageBase, at: Path_, *, evaluates: str | None = None) -> Node:
        references = tuple(self._settle(item.source, (*at, *item.at)) for item in spec.declare().all_inputs)
        inputs = dict.fromkeys(ref.source for ref in references if ref.what == "stage")
        return Node(name=name, spec=spec, at=at, references=references, inputs=tuple(inputs), evaluates=evaluates)

    def _settle(self, node: ModelSource | PromptSource, at: Path_) -> Reference:
        wants: Gives = "model" if isinstance(node, ModelSource) else "data"
        source, recipe = node.source, self.recipe
        if source in recipe.stages:
            gives, kind = recipe.stages[source].declare().gives, recipe.stages[source].kind
            if gives != wants:
                raise self._error(at, f"`{source}` is a {kind} stage, which gives {gives}; {wants} is needed here")
            return Reference(at=at, source=source, what="stage", wants=wants)
        if source == "base":
            if recipe.base is None or wants != "model":
                what = "is a model; data is needed here" if recipe.base else "is used, but the recipe has no `base:`"
                raise self._error(at, f"`base` {what}")
            return Reference(at=at, source=source, what="base", wants=wants)
        scheme, colon, _ = source.partition(":")
        if colon and scheme in _SCHEMES:
            self._check_builtin(source, at, wants)
            return Reference(at=at, source=source, what=_SCHEMES[scheme], wants=wants)
        if isinstance(node, ModelSource):
            return self._model(node, at)
        return self._data(source, at)

    def _check_builtin(self, source: str, at: Path_, wants: Gives) -> None:
        if not source.startswith("builtin:"):
            return
        from posttrain.stages.data.load import GENERATORS
        from posttrain.stages.models.locations import BUILTIN

        name = source.removeprefix("builtin:")
        known, what = (GENERATORS, "generator") if wants == "data" else ((*BUILTIN, "oracle", "given"), "model")
        if name not in known:
            raise self._error(at, f"there is no {what} {source}; {closest(name, known)}")

    def _model(self, node: ModelSource, at: Path_) -> Reference:
        source = node.source
        path = self._path(source)
        if path.is_dir():
            if node.scratch is None and not (path / "config.json").is_file():
                inner = [name for name in ("artifact", "engine") if (path / name / "config.json").is_file()]
                fix = f"say {source.rstrip('/')}/{inner[0]}" if inner else "name what `save_pretrained` has written"
                what = f"{dotted(at)}: {path} is no model: it has no config.json"
                raise InputError(what, where=self.loaded.where(at), fix=fix)
            return Reference(at=at, source=source, what="folder", wants="model", path=path)
        if HUB_ID.fullmatch(source) and not source.startswith("."):
            return Reference(at=at, source=source, what="hub", wants="model")
        if "/" in source or source.startswith(("~", ".")):
            raise InputError(f"{dotted(at)}: there is no folder {path}", where=self.loaded.where(at))
        raise self._no_stage(source, at, "model")

    def _data(self, source: str, at: Path_) -> Reference:
        path = self._path(source)
        if path.is_file():
            return Reference(at=at, source=source, what="file", wants="data", path=path)
        if path.is_dir():
            what = f"{dotted(at)}: {path} is a folder"
            raise InputError(what, where=self.loaded.where(at), fix="name a .jsonl or .parquet file in it")
        if "/" in source or "." in source:
            what = f"{dotted(at)}: there is no file {path}"
            raise InputError(what, where=self.loaded.where(at), fix="a path starts at the recipe's folder")
        raise self._no_stage(source, at, "data")

    def _path(self, source: str) -> Path:
        return self.loaded.recipe_dir / Path(source).expanduser()

    def _no_stage(self, source: str, at: Path_, wants: Gives) -> RecipeError:
        valid = [name for name, spec in self.recipe.stages.items() if spec.declare().gives == wants]
        valid += ["base", "builtin:tiny"] if wants == "model" else []
        return self._error(at, f"there is no stage {source!r}; {closest(source, valid)}")

    def _error(self, at: Path_, what: str) -> RecipeError:
        return RecipeError(f"{dotted(at)}: {what}", where=self.loaded.where(at))


def _evaluations(loaded: LoadedRecipe) -> dict[str, Evaluate]:
    """One Evaluate stage for each name in `evaluate.after`."""
    evaluate, stages = loaded.recipe.evaluate, loaded.recipe.stages
    suites = {suite.name: suite for suite in evaluate.suites}
    trained = ["base", *(name for name, spec in stages.items() if spec.declare().gives == "model")]

    def refuse(at: Path_, what: str) -> RecipeError:
        return RecipeError(f"{dotted(at)}: {what}", where=loaded.where(at))

    if len(suites) < len(evaluate.suites):
        raise refuse(("evaluate", "suites"), "two suites have the same name")
    for index, name in enumerate(evaluate.after):
        if name not in trained:
            raise refuse(("evaluate", "after", index), f"no stage {name!r} gives a model; {closest(name, trained)}")
    for name, only in evaluate.only.items():
        if name not in evaluate.after:
            what = f"`{name}` isn't in `evaluate.after`; {closest(name, evaluate.after)}"
            raise refuse(("evaluate", "only", name), what)
        for index, suite in enumerate(only):
            if suite not in suites:
                raise refuse(("evaluate", "only", name, index), f"no suite {suite!r}; {closest(suite, suites)}")
    if evaluate.after and not suites:
        raise refuse(("evaluate", "after"), "there are no suites to run; name some in `evaluate.suites`")
    return {
        name: Evaluate(
            kind="evaluate",
            model=ModelSource.model_validate({"from": name}),
            suites=tuple(suites[suite] for suite in evaluate.only.get(name, tuple(suites))),
        )
        for name in evaluate.after
    }


def _in_order(loaded: LoadedRecipe, nodes: dict[str, Node]) -> dict[str, Node]:
    order: dict[str, Node] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in trail:
            cycle = " -> ".join([*trail[trail.index(name) :], name])
            at = nodes[name].at
            raise RecipeError(f"stages need each other in a circle: {cycle}", where=loaded.where(at))
        trail.append(name)
        for needed in nodes[name].inputs:
            visit(needed)
        trail.pop()
        order[name] = nodes[name]

    for name in nodes:
        visit(name)
    return order
