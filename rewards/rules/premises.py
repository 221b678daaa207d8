"""A reward on questions that assume what isn't so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.rules.copies import without_copies
from posttrain.rewards.rules.retrieval import alternatives, says
from posttrain.rewards.rules.text import mentions, normalise

_REJECTED_WITHIN = 20_000
"""Characters: who rejects a premise says so before that."""

_NOT = r"(?: not|n't|n’t)"
_WRONG = r"(?:false|incorrect|inaccurate|untrue|mistaken|wrong)\b"
_MARKERS = (
    r"\A\W{0,8}no[,.:;]", r"false premise", r"misconception",
    r"no such (?:thing|person|place|event|book|film|work|law)",
    rf"(?:is|was|are|were){_NOT} (?:true|correct|accurate|right|the case)\b",
    rf"(?:\b(?:is|was|are|were)|['’]s) {_WRONG}",
    r"(?:is|was) (?:a|an|based on a|based on an) (?:myth|error|mistake|false|wrong|mistaken|incorrect)\b(?! to\b)",
    r"(?:some|a|the) (?:confusion|mix-up|misunderstanding)\b",
    rf"(?:premise|assumption|question|claim|statement)[^.!?\n]{{0,60}}\b{_WRONG}",
    rf"(?:does|did|do){_NOT} (?:actually |really |in fact )?(?:exist|happen|take place)\b",
    r"never (?:actually |really )?(?:happened|existed|took place|wrote|won|was|were|had|did|said|made)\b",
    rf"(?:contrary to|actually),? [^.!?\n]{{0,80}}(?:\b(?:did|was|were|is|are|has|had){_NOT}\b|\bnever\b)",
)  # fmt: skip
_NEGATED = re.compile(r"(?:\bnot|n't|n’t|\bno|\bhardly) (?:\w{1,12} ){0,2}$", re.IGNORECASE)


def false_premise(
    prompts: Sequence[Any],
    completions: Sequence[str],
    premise: Sequence[Any],
    corrects: Sequence[Any] | None = None,
    assumes: Sequence[Any] | None = None,
    *,
    markers: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """Whether the answer rejects a question's premise where it is false, and only there (CounterFactQA; Qwen3, 4.7).

    The column `premise` says whether it is true. A false one pays 1.0 where the answer rejects it and mentions what the
    column `corrects` lists (texts, or lists of texts of which one will do). A true one pays 1.0 where nothing is
    rejected, so that rejecting everything doesn't pay. To reject is one of the usual English turns, or a `not` or `no`
    shortly before what the column `assumes` lists, such as the wrong year. What is copied from the prompt isn't
    counted. `markers` are other phrases of rejection, in place of the turns.
    """
    none = [None] * len(completions)
    rows = zip(prompts, completions, premise, corrects or none, assumes or none, strict=True)
    return [_premise(prompt, text, truth, words, assumed, markers) for prompt, text, truth, words, assumed in rows]


def _premise(
    prompt: Any, text: str, truth: Any, corrects: Any, assumes: Any, markers: Sequence[str] | None
) -> float | RowError | None:
    if truth is None:
        return None
    truth = {"true": True, "false": False}.get(truth.strip().lower(), truth) if isinstance(truth, str) else truth
    if not isinstance(truth, bool):
        return RowError(f"column `premise` should be true or false, not {truth!r}")
    try:
        wanted, assumed = alternatives(corrects, "corrects"), alternatives(assumes, "assumes")
    except ValueError as error:
        return RowError(str(error))
    said = without_copies(text[:_REJECTED_WITHIN], prompt)
    if not re.search(r"\w", said):
        return 0.0
    rejected = rejects(said, markers) or _denies(said, [word for words in assumed for word in words])
    return float(not rejected) if truth else float(rejected and says(said, wanted) == len(wanted))


def rejects(text: str, markers: Sequence[str] | None = None) -> bool:
    """Whether a text says that something assumed isn't so; a marker behind a `not` is none."""
    if markers is not None:
        said = normalise(text)
        return any(mentions(said, marker) for marker in markers)
    found = (match for marker in _MARKERS for match in re.finditer(marker, text, re.IGNORECASE))
    return any(not _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) for match in found)


def _denies(text: str, assumed: Sequence[str]) -> bool:
    """Whether a `not`, `no` or `never` stands in a sentence shortly before something assumed."""
    said = normalise(text)
    words = "|".join(re.escape(normalise(word)) for word in assumed)
    return (
        bool(words) and re.search(rf"(?:\bnot|n't|n’t|\bno|\bnever)\b[^.!?;]{{0,60}}\b(?:{words})\b", said) is not None
    )


_MOON = {"premise": False, "corrects": ["1969"]}
_APOLLO = "Why did Apollo 11 land in 1975?"

REWARDS: dict[str, BuiltinReward] = {
    "false_premise": BuiltinReward(
        function=false_premise,
        columns=("premise",),
        optional=("corrects", "assumes"),
        check=judging_nothing(false_premise, "premise", "corrects", "assumes"),
        doc="rejects a false premise, and mentions what the column `corrects` lists; accepts a true one",
        gold=Case(completion="The year is wrong: that is a misconception. It was 1969.", prompt=_APOLLO, columns=_MOON),
        adversarial=Case(completion="It landed in 1975, after 1969.", prompt=_APOLLO, columns=_MOON),
    ),
}
