"""Chat templates: Qwen3's as TRL ships it, and the training variant that belongs to a model's template."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from posttrain.errors import HandoverError


@cache
def trl_template(name: str) -> str:
    """One of TRL's bundled chat templates, e.g. `qwen3`."""
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


@cache
def training_template(template: str) -> str:
    """The variant for training: keeps all think blocks, marks assistant tokens.

    Raises:
        HandoverError: the template marks nothing itself and TRL has no variant of it.
    """
    if "{% generation %}" in template or "{%- generation %}" in template:
        return template
    if template == trl_template("qwen3"):
        return trl_template("qwen3_training")
    raise HandoverError(
        "this model's chat template doesn't mark assistant tokens, and no training variant of it is known",
        fix="give the tokenizer Qwen3's template, or one with {% generation %} marks",
    )
