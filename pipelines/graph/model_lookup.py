"""What a model's name alone says: where its files are, and its config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from posttrain.configs.load import PACKAGED, LoadedRecipe
from posttrain.configs.schema import ModelSource
from posttrain.errors import InputError
from posttrain.folders import read_json
from posttrain.stages.models import smollm2

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_folder(source: str, recipe_dir: Path) -> Path | None:
    """Where a model's files are, if the name alone says so: a folder, or a model of `builtin:`."""
    if source == smollm2.NAME:
        folder = smollm2.cached_folder()
    elif source.startswith("builtin:"):
        folder = PACKAGED.parent / "models" / source.removeprefix("builtin:")
    else:
        folder = recipe_dir / Path(source).expanduser()
    return folder if folder.is_dir() else None


def check_model_name(source: str, folder: Path) -> None:
    """Refuse what can't be a model: neither builtin:, a folder below `folder`, nor a Hub id. Raises InputError."""
    if source.startswith("builtin:") or (folder / Path(source).expanduser()).is_dir() or HUB_ID.fullmatch(source):
        return
    raise InputError("there is no such model", where=source, fix="name builtin:tiny, a folder, or a Hub id")


def config_of(loaded: LoadedRecipe, model: ModelSource) -> dict[str, Any]:
    """A model's config; empty if it isn't at hand. Follows stages back to where their weights come from."""
    stages, cut = loaded.recipe.stages, model.layers
    seen: set[str] = set()
    while model.scratch is None and model.source not in seen:
        seen.add(model.source)
        if model.source in stages and stages[model.source].model is not None:
            model = stages[model.source].model  # type: ignore[assignment]
        elif model.source == "base" and loaded.recipe.base is not None:
            model = loaded.recipe.base
        cut = cut or model.layers
    folder = model_folder(model.source, loaded.recipe_dir)
    config = {**(read_json(folder / "config.json") if folder else {}), **(model.scratch or {})}
    if cut:
        config["num_hidden_layers"] = len(cut)
    return config
