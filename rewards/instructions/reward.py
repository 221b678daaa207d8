"""Scores an answer by the verifiable instructions of its prompt (IFEval, arXiv 2311.07911).

The columns are those of the public data set, so that it, and every set made like it, works as it is. The verdicts
are those of the paper's definitions, and where its program is more lenient than its words, ours, since a policy
finds out: a rule between paragraphs stands on a line of its own, a bullet has a blank behind its mark, a postscript
starts a line and goes on, a heading's number counts once, a placeholder has a name, JSON is an object or a list, one
option alone is an answer, quotation marks have something between them, and commas of other scripts are commas.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.instructions import layout, lengths, words
from posttrain.rewards.instructions.checker import Checker

CHECKERS: dict[str, Checker] = {**words.CHECKERS, **lengths.CHECKERS, **layout.CHECKERS}
"""The paper's 25 instructions, by id."""

Check = Callable[[str], bool]


def instructions(
    prompts: Sequence[Any],
    completions: Sequence[str],
    instruction_id_list: Sequence[Any],
    kwargs: Sequence[Any],
    *,
    mode: Literal["strict", "loose"] = "strict",
    aggregate: Literal["all", "fraction"] = "all",
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the answer obeys every instruction of the row, each checked by a program (arXiv 2311.07911, section 2).

    The column `instruction_id_list` has ids, such as `keywords:existence`; the column `kwargs` has as many objects
    with their arguments, in which None means absent (either may be JSON text). `mode: loose` tries the answer without
    its first line, its last line, both, and each without stars; `aggregate: fraction` pays the share of instructions
    that are obeyed. An unknown id or argument fails the row; a row without instructions is not applicable.
    """
    rows = zip(completions, instruction_id_list, kwargs, strict=True)
    return [_score(text, ids, arguments, mode, aggregate) for text, ids, arguments in rows]


def _score(text: str, ids: Any, arguments: Any, mode: str, aggregate: str) -> float | RowError | None:
    try:
        checks = bind(ids, arguments)
    except ValueError as error:
        return RowError(str(error))
    if not checks:
        return None
    variants = list(loosened(text)) if mode == "loose" else [text]
    obeyed = [any(obeys(variant, check) for variant in variants) for check in checks]
    return sum(obeyed) / len(obeyed) if aggregate == "fraction" else float(all(obeyed))


def obeys(answer: str, check: Check) -> bool:
    """Whether an answer passes a check; an empty one obeys nothing, not even `no comma`."""
    return bool(answer.strip()) and check(answer)


def loosened(answer: str) -> Iterator[str]:
    """The eight readings of the loose mode (section 2): without first line, last line or both, and without stars."""
    lines = answer.strip().split("\n")
    for kept in (answer, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])):
        yield kept
        yield kept.replace("*", "")


def bind(ids: Any, arguments: Any) -> list[Check]:
    """The row's checks with their arguments. Raises ValueError, which says what is wrong with the row."""
    ids, arguments = _parsed(ids, "instruction_id_list"), _parsed(arguments, "kwargs")
    if len(ids) != len(arguments):
        raise ValueError(f"{len(ids)} instructions in `instruction_id_list`, but {len(arguments)} objects in `kwargs`")
    return [_bound(name, given or {}) for name, given in zip(ids, arguments, strict=True)]


def _parsed(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"column `{column}`: no JSON: {error}") from None
    if isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"column `{column}` should be a list")
    return list(value)


def _bound(name: Any, given: Any) -> Check:
    checker = CHECKERS.get(name) if isinstance(name, str) else None
    if checker is None:
        close = difflib.get_close_matches(str(name), CHECKERS, n=1)
        raise ValueError(f"there is no instruction {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if not isinstance(given, Mapping):
        raise ValueError(f"instruction {name!r}: its arguments should be an object")
    values: dict[str, Any] = {}
    for argument, read in checker.arguments.items():
        try:
            values[argument] = read(given.get(argument))
        except ValueError as error:
            raise ValueError(f"instruction {name!r}, argument `{argument}`: {error}") from None
    holds = checker.holds
    return lambda answer: holds(answer, **values)


_TWO = {
    "instruction_id_list": ["keywords:existence", "detectable_format:number_bullet_lists"],
    "kwargs": [{"keywords": ["tide", "moon"]}, {"num_bullets": 2}],
}

REWARDS: dict[str, BuiltinReward] = {
    "instructions": BuiltinReward(
        function=instructions,
        columns=("instruction_id_list", "kwargs"),
        check=judging_nothing(instructions, "instruction_id_list", "kwargs"),
        doc="obeys every instruction that the row names: IFEval's 25 checkers",
        gold=Case(completion="* The moon pulls the sea.\n* So the tide comes in.", columns=_TWO),
        adversarial=Case(completion="* moon tide\n* moon tide\n* moon tide", columns=_TWO),
    )
}
