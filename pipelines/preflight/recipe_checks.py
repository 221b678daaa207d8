"""What a recipe alone says wrong: rewards, models, environments and filters that don't exist or don't fit."""

from __future__ import annotations

from collections.abc import Iterable

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import RewardUse
from posttrain.errors import InputError, RecipeError
from posttrain.folders import read_json
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.graph.model_lookup import model_folder
from posttrain.pipelines.preflight.context_room import generations_of, room_of


def check_rewards(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse rewards that nothing answers to. Imports no user code. Raises InputError."""
    from posttrain.rewards.base import check_use

    for node in nodes:
        for reward in node.declaration.rewards:
            try:
                check_use(reward.use, loaded.recipe_dir)
                _check_model(loaded, reward.use)
            except InputError as error:
                raise type(error)(error.what, where=loaded.where((*node.at, *reward.at)), fix=error.fix) from None


def _check_model(loaded: LoadedRecipe, use: RewardUse) -> None:
    """Refuse a reward model that can't be one, as far as its name or its folder's config says. Raises InputError."""
    if use.model is None:
        return
    name = use.model.source
    architectures = ["a language model"] if name in (*loaded.recipe.stages, "base") else []
    folder = model_folder(name, loaded.recipe_dir)
    if folder is not None:
        architectures = read_json(folder / "config.json").get("architectures") or ["nothing"]
    if architectures and not any("SequenceClassification" in found for found in architectures):
        raise InputError(
            f"reward {use.use!r}: {name!r} is no reward model but {architectures[0]}",
            fix="name a sequence-classification checkpoint with one label, as TRL's RewardTrainer saves it",
        )


def check_families(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse models that learner or transformers engine would compute wrongly, where their config is at hand.

    Raises InputError.
    """
    from posttrain.stages.models.families import check_family

    recipe = loaded.recipe
    for node in nodes:
        for item in node.declaration.models:
            in_engine = item.holder == "engine" and recipe.cluster.rollout.engine == "transformers"
            if item.holder != "learner" and not in_engine:
                continue
            source = recipe.base if item.source.source == "base" and recipe.base else item.source
            folder = model_folder(source.source, loaded.recipe_dir)
            kind = (source.scratch or (read_json(folder / "config.json") if folder else {})).get("model_type")
            try:
                if kind is not None:
                    check_family(kind, source.source)
            except InputError as error:
                raise InputError(error.what, where=loaded.where((*node.at, *item.at)), fix=error.fix) from None


def check_environments(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse environments that aren't there, or stand where no model answers. Imports no user code.

    Raises:
        InputError: what is wrong, and where.
    """
    from posttrain.rewards.environments.registry import check_environment

    for node in nodes:
        for item in node.declaration.sources:
            use = item.source.environment
            if use is None:
                continue
            where = loaded.where((*node.at, *item.at, "environment"))
            if item.role not in ("prompts", "questions"):
                what = f"`environment` is not allowed under `{item.at[0]}`: no model answers these rows"
                raise RecipeError(what, where=where, fix="remove it")
            try:
                check_environment(use, loaded.recipe_dir)
            except InputError as error:
                raise type(error)(error.what, where=error.where or where, fix=error.fix) from None


def check_filters(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse filters that don't exist, and parameters that they haven't. Raises RecipeError."""
    for node in nodes:
        for index, use in enumerate(node.declaration.filters):
            from posttrain.stages.filters import check_filter

            try:
                check_filter(use)
            except RecipeError as error:
                where = loaded.where((*node.at, "filters", index))
                raise RecipeError(error.what, where=where, fix=error.fix) from None


def check_max_tokens(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse completions that leave no room for a prompt. Raises RecipeError."""
    for node in nodes:
        for generation in generations_of(node):
            room = room_of(loaded, generation)
            if room is not None and room.max_tokens >= room.limit:
                raise RecipeError(
                    f"{node.name}: completions of max_tokens {room.max_tokens} leave no room for a prompt in a "
                    f"context of {room.limit} tokens",
                    where=loaded.where(node.at), fix="lower sampling.max_tokens",
                )  # fmt: skip
