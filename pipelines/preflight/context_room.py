"""The room that a model's context leaves for prompts, by its config alone."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.configs.kinds.data_stages import NO_MODEL
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.nodes.declaration import Generation
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.graph.model_lookup import config_of
from posttrain.stages.data.context_fit import Room, context_tokens


def room_of(loaded: LoadedRecipe, generation: Generation) -> Room | None:
    """What the model's context leaves for completions; None where it isn't known."""
    model = generation.model
    if model is None:
        return None
    limit = context_tokens(config_of(loaded, model), loaded.recipe.cluster.rollout)
    return None if limit is None else Room(max_tokens=generation.max_tokens, limit=limit)


def generations_of(node: Node) -> Iterator[Generation]:
    """Those of a model or an endpoint: what `sample` takes from the rows themselves needs no room."""
    for generation in node.declaration.generations:
        if generation.model is None or generation.model.source not in NO_MODEL:
            yield generation
