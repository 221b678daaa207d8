"""From a recipe's model reference to a folder or Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from posttrain.configs.schema import ModelSource
from posttrain.errors import InputError
from posttrain.stages.models import smollm2

PACKAGED = ("tiny", "tiny-mini")
BUILTIN = (*PACKAGED, "smollm2")


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Where the names of a recipe lead.

    >>> Locations(recipe_dir=Path("recipes"), inputs={"cold": Path("runs/r/cold/artifact")})
    """

    recipe_dir: Path
    """Relative paths start here."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """The finished artifacts, by stage."""
    base: ModelSource | None = None


def model_path(locations: Locations, source: ModelSource) -> tuple[str, ModelSource]:
    """Where the model lies, and the source that says what to do with it (`base` is looked up).

    Raises:
        InputError: `base` isn't given, or there is no such built-in model.
    """
    name = source.source
    if name == "base":
        if locations.base is None:
            raise InputError("a stage starts from `base`, and the recipe has none", fix="add base: builtin:tiny")
        path, base = model_path(locations, locations.base)
        return path, source.model_copy(
            update={k: getattr(source, k) or getattr(base, k) for k in ("revision", "layers", "scratch")}
        )
    if name in locations.inputs:
        return str(locations.inputs[name]), source
    builtin = builtin_path(name)
    if builtin is not None:
        return builtin, source
    folder = locations.recipe_dir / Path(name).expanduser()
    return (str(folder) if folder.is_dir() else name), source


def builtin_path(name: str) -> str | None:
    """The folder of a built-in model, None if `name` isn't `builtin:...`. The first use of smollm2 converts it.

    Raises:
        InputError: no such built-in model, or the package that holds it isn't installed.
    """
    if not name.startswith("builtin:"):
        return None
    short = name.removeprefix("builtin:")
    if short not in BUILTIN:
        raise InputError(f"no built-in model {name!r}", fix=f"use builtin:{' or builtin:'.join(BUILTIN)}")
    if name == smollm2.NAME:
        return str(smollm2.smollm2_folder())
    return str(files("posttrain.configs").joinpath("models", short))
