"""The response filters of the report's section 4.1, by name. Each says why it drops; None keeps.

A filter is a function of a prompt, a completion and its score. Keyword-only arguments are its parameters, which a
recipe may set: `filters: [correct, {use: repetition, ngram: 4, at_most: 0.3}]`. Thresholds that the report doesn't
disclose, which is all of them, are ours; docs/guides/data.md has what they let pass and what they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from posttrain.configs.loading.problems import closest
from posttrain.configs.schema import FilterUse
from posttrain.errors import RecipeError
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.filters.answers import complete, correct
from posttrain.stages.filters.checklist import checklist
from posttrain.stages.filters.consistency import consistent
from posttrain.stages.filters.guesswork import guesswork
from posttrain.stages.filters.language import language
from posttrain.stages.filters.repetition import repetition
from posttrain.stages.filters.similarity import similar
from posttrain.types import Completion, Prompt, Score

Filter = Callable[[Prompt, Completion, Score], str | None]

FILTERS: dict[str, Callable[..., str | None]] = {
    "correct": correct,  # (1) the final answer is wrong
    "repetition": repetition,  # (2) substantial repetition
    "guesswork": guesswork,  # (3) a guess without adequate reasoning
    "consistent": consistent,  # (4) thinking and summary differ
    "language": language,  # (5) language mixing, or a shift of style
    "similar": similar,  # (6) too similar to validation items
    "complete": complete,  # not of the report: cut off, or its think block left open
    "checklist": checklist,  # of section 4.3, for data without thinking: what the query asks for
}

GIVEN = "held_out"
"""The argument that isn't a recipe's but the stage's: what responses are compared with."""


def parameters(name: str) -> Mapping[str, Parameter]:
    """The parameters that a recipe may set, by name."""
    found = signature(FILTERS[name]).parameters
    return {key: p for key, p in found.items() if p.kind is Parameter.KEYWORD_ONLY and key != GIVEN}


def check_filter(use: FilterUse) -> None:
    """Refuse a filter that doesn't exist, or a parameter that it hasn't. Raises RecipeError."""
    if use.use not in FILTERS:
        raise RecipeError(f"no filter {use.use!r}; {closest(use.use, FILTERS)}")
    known = parameters(use.use)
    for key in use.params:
        if key not in known:
            hint = closest(key, known) if known else "it has none"
            raise RecipeError(f"filter {use.use!r} has no parameter {key!r}; {hint}")
    try:
        _checked(use.use)(**use.params)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"filter {use.use!r}: {first['loc'][-1]}: {first['msg'].lower()}, not {first['input']!r}"
        raise RecipeError(what, fix="fix the filter's parameters") from None


def bound(use: FilterUse, held_out: HeldOut) -> Filter:
    """The filter with its parameters. Raises RecipeError as `check_filter`."""
    check_filter(use)
    given = {GIVEN: held_out} if GIVEN in signature(FILTERS[use.use]).parameters else {}
    return partial(FILTERS[use.use], **use.params, **given)


def _checked(name: str) -> Callable[..., None]:
    """A function of the filter's parameters alone that pydantic checks by their annotations."""
    original = FILTERS[name]

    def probe(**values: Any) -> None: ...

    kept = parameters(name)
    probe.__signature__ = signature(original).replace(parameters=list(kept.values()))  # type: ignore[attr-defined]
    hints = {key: value for key, value in _hints(original).items() if key in kept}
    probe.__annotations__ = hints
    return validate_call(config=ConfigDict(strict=False))(probe)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(function, include_extras=True)
