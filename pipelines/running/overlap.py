"""Are the questions of a run's suites held out? They are compared with all data that the run's stages read and left.

overlap.json in the run folder: {"suites": [{"suite", "questions", "in_data", "rows", "in_corpus", ...}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

from posttrain.configs.load import LoadedRecipe, load_recipe
from posttrain.configs.nodes.declaration import SourceInput
from posttrain.configs.schema import PromptSource
from posttrain.folders import write_json
from posttrain.pipelines.planning.plan import Plan, StagePlan
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.results import OVERLAP
from posttrain.stages.curation.overlap import Seen, SuiteOverlap, overlap, seen_in_documents, seen_in_rows
from posttrain.stages.data.load import derive_seed, load_prompts, load_rows
from posttrain.stages.data.store import FILE
from posttrain.stages.models.locations import Locations
from posttrain.types import Prompt

TINY = {"builtin:tiny": "tiny", "builtin:tiny-mini": "mini"}
"""The packaged bases, and the stages of recipe tiny-base that made them."""


def write_overlap(loaded: LoadedRecipe, plan: Plan) -> None:
    """Compare, and write overlap.json; nothing is written where nothing is evaluated. Raises DataError."""
    with loaded.masking():
        found = measure_overlap(loaded, plan)
    if found:
        write_json(plan.run_dir / OVERLAP, {"suites": [asdict(suite) for suite in found]})


def measure_overlap(loaded: LoadedRecipe, plan: Plan) -> list[SuiteOverlap]:
    """Each suite's questions against the rows of the run, and against the corpus of a packaged base.

    Raises:
        DataError: a source that stages read can't be read any more.
    """
    reader = _Reader(loaded, plan)
    suites = reader.suites()
    if not suites:
        return []
    return overlap(suites, reader.data(), reader.corpus())


class _Reader:
    """Reads again what the stages of a command read."""

    def __init__(self, loaded: LoadedRecipe, plan: Plan) -> None:
        self.loaded, self.stages = loaded, plan.due
        ledger = Ledger(plan.run_dir)
        artifacts = {s.name: ledger.artifact(s.name) for s in plan.due if s.node.declaration.gives == "data"}
        self.inputs = {name: folder for name, folder in artifacts.items() if (folder / FILE).is_file()}

    def suites(self) -> dict[str, list[Prompt]]:
        """The prompts of each suite, seeded as `evaluate` seeds them."""
        specs = {suite.name: suite for stage in self.stages for suite in stage.node.declaration.suites}
        return {
            name: [p for source in suite.prompts for p in self._prompts(source, derive_seed("suite", name))]
            for name, suite in specs.items()
        }

    def data(self) -> Seen:
        """What stands in the data that stages left, and in the sources that they named."""
        rows: dict[str, list[Prompt]] = {}
        texts: list[str] = []
        for name in self.inputs:
            rows[name] = self._prompts(PromptSource.model_validate({"from": name}), 0)
        for stage, item in self._sources():
            source = item.source
            seed = self.loaded.recipe.seed if stage.node.spec.seed is None else stage.node.spec.seed
            label = f"{seed} {source.model_dump_json()}"
            if item.form == "documents":
                texts += _texts(self.loaded.recipe_dir, source, seed)
            elif label not in rows:
                rows[label] = self._prompts(source, seed)
        met, read = seen_in_rows(p for prompts in rows.values() for p in prompts), seen_in_documents(texts)
        return Seen(contents=met.contents | read.contents, count=met.count + read.count)

    def corpus(self) -> Seen | None:
        """The documents that the packaged bases were made of, generated again; None if the run starts elsewhere."""
        recipe = self.loaded.recipe
        models = {ref.source for stage in self.stages for ref in stage.node.references if ref.wants == "model"}
        if "base" in models and recipe.base is not None:
            models.add(recipe.base.source)
        return _packaged_corpus(frozenset(TINY[name] for name in TINY if name in models))

    def _sources(self) -> Iterator[tuple[StagePlan, SourceInput]]:
        """Sources that aren't stages and that stages learn from or make data of."""
        for stage in self.stages:
            for item in stage.node.declaration.sources:
                is_stage = item.source.source in self.loaded.recipe.stages
                if item.role in ("prompts", "training", "material") and not is_stage:
                    yield stage, item

    def _prompts(self, source: PromptSource, seed: int) -> list[Prompt]:
        (prompts,) = load_prompts(
            [source], locations=Locations(recipe_dir=self.loaded.recipe_dir, inputs=self.inputs), seed=seed
        )
        return prompts


@cache
def _packaged_corpus(stages: frozenset[str]) -> Seen | None:
    """What the stages of recipe tiny-base read; equal draws of unequal length are read once, at full length."""
    if not stages:
        return None
    origin = load_recipe("tiny-base")
    drawn: dict[str, PromptSource] = {}
    for name in sorted(stages):
        for source in (s.source for s in origin.recipe.stages[name].declare().sources if s.role == "training"):
            draw = source.model_dump_json(exclude={"n"})
            if draw not in drawn or (drawn[draw].n or 0) < (source.n or 0):
                drawn[draw] = source
    return seen_in_documents(
        text for source in drawn.values() for text in _texts(origin.recipe_dir, source, origin.recipe.seed)
    )


def _texts(recipe_dir: Path, source: PromptSource, seed: int) -> list[str]:
    return [str(row["text"]) for row in load_rows(source, locations=Locations(recipe_dir=recipe_dir), seed=seed)]
