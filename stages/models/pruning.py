"""A student made from its teacher: some of its decoder layers, everything else as it was."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer

from posttrain.errors import InputError
from posttrain.folders import check_empty
from posttrain.stages.models.model_files import ModelSpec, export_model, load_model


def evenly(total: int, keep: int) -> tuple[int, ...]:
    """`keep` of `total` layers, evenly spaced, the first and the last among them.

    >>> evenly(28, 4)
    (0, 9, 18, 27)

    Raises:
        InputError: fewer than 1 are to be kept, or more than there are.
    """
    if not 1 <= keep <= total:
        raise InputError(f"{keep} layers can't be kept: the model has {total}", fix=f"name 1 to {total}")
    return (0,) if keep == 1 else tuple(round(i * (total - 1) / (keep - 1)) for i in range(keep))


def prune(path: str, out: Path, *, layers: tuple[int, ...] = (), keep: int | None = None) -> tuple[int, ...]:
    """Write the model at `path` with only `layers`, or `keep` evenly spaced ones, into `out`; returns which.

    Raises:
        RecipeError: a layer to keep doesn't exist.
        InputError: see `evenly`; or `out` isn't empty.
    """
    check_empty(out)
    chosen = layers
    if keep is not None:
        chosen = evenly(len(load_model(ModelSpec(path=path), torch.float32, "eager").base_model.layers), keep)
    model = load_model(ModelSpec(path=path, layers=chosen), torch.float32, "eager")
    out.mkdir(parents=True, exist_ok=True)
    state = dict(model.state_dict())
    export_model(model.config, state, AutoTokenizer.from_pretrained(path), out)
    (out / "pruned.json").write_text(json.dumps({"from": path, "layers": list(chosen)}) + "\n", encoding="utf-8")
    return chosen
