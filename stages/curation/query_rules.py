"""Which queries can't be verified (report, 4.1): several sub-questions, open generation, proofs, and no answer at all.

The report has a model judge this; these rules are ours, made to be cheap and to err on the side of keeping. A judge
sees what they leave. Multiple choice has one question; a program that is tested may be told at length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.configs.schema import RewardUse
from posttrain.rewards.base import applies, needed_columns, row_columns
from posttrain.rewards.rules.detect import prose
from posttrain.types import Prompt

Rule = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class PhraseForm:
    """A form of words, and what of it any ASCII text must hold: a search for plain words is fifty times faster."""

    pattern: re.Pattern[str]
    words: tuple[str, ...]
    """In lower case; one of them stands in whatever `pattern` finds."""

    def may_stand_in(self, lower: str) -> bool:
        """False where a text, of which `lower` is the lower case, can't have this form."""
        for word in self.words:  # `any` with a generator takes twice as long
            if word in lower:
                return True
        return not lower.isascii()


def _form(words: str, pattern: str, flags: re.RegexFlag = re.IGNORECASE) -> PhraseForm:
    return PhraseForm(pattern=re.compile(pattern, flags), words=tuple(words.split()))


_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|'[^'\n]{12,}'")
_QUOTES = ('"', "“", "«", "'")
_DO = (
    "find|compute|calculate|determine|show|prove|evaluate|solve|give|state|sketch|draw|explain|what|how|why|which|who|"
    "when|where|is|are|does|do|can|list|name|describe|derive|estimate|write|simplify|verify"
)
_ASKED = re.compile(r"[?？](?:\s|$)")
_PART = _form(
    ") part",
    rf"(?:^|[\s;:.?!])(?:\(([a-h]|[ivx]{{1,4}}|\d)\)|([a-h]|[ivx]{{1,4}}|\d)\)|part\s+([a-h\d])\b[:.)]?)\s*(?:{_DO})\b",
)
_NUMBERED = re.compile(rf"^\s*(?:\d+|[a-h])[.)]\s+(?:{_DO})\b", re.IGNORECASE | re.MULTILINE)
_SECOND = re.compile(
    rf"\?\s+(?:and\s+|also,?\s+|then\s+|next,?\s+|finally,?\s+)?(?:{_DO})\b[^?]*\?"
    rf"|[.?]\s+(?:also|additionally|furthermore|in addition|then|secondly|next),?\s+(?:please\s+)?(?:{_DO})\b"
    rf"|,\s*and\s+(?:what|how\s+(?:many|much|far|long|old)|who|where|when|why|which)\b[^?.]*\?",
    re.IGNORECASE,
)
PROOFS = (
    _form(
        "prove show proof beweise zeige montre demuestr",
        r"\b(?:prove|disprove)\b(?!\s+(?:to\s+be|useful|helpful|wrong|right))|\bshow\s+(?:that|why)\b|\b(?:give|write|provide|find)\s+(?:me\s+)?a\s+"
        r"(?:formal\s+|rigorous\s+|short\s+|detailed\s+)*proof\b|\bproof\s+(?:of|that)\b|\bbeweise\b|\bzeige,?\s+dass\b|\bd[ée]montre[zr]?\b"
        r"|\bdemuestr[ae]\b|证明",
    ),
)
_GENRE = (
    "essay|story|stories|poem|haiku|limerick|sonnet|song|lyrics|letter|e-?mail|blog(?:\\s+post)?|tweet|post|article|speech|"
    "dialogue|script|scene|review|summary|paragraph|report|slogan|tagline|headline|description|biography|advertisement|"
    "joke|fairy\\s+tale|novel|chapter|outline|introduction|conclusion|caption|pitch|cover\\s+letter|press\\s+release|rap|toast"
)
_LINES = re.IGNORECASE | re.MULTILINE
_PLEASE = r"^\s*(?:please\s+|can\s+you\s+|could\s+you\s+)?"
OPEN = (
    _form(
        "write compose draft create generate tell craft produce make come invent",
        r"\b(?:write|compose|draft|create|generate|tell|craft|produce|make\s+up|come\s+up\s+with|invent)\b"
        rf"[^.?!\n]{{0,60}}?\b(?:{_GENRE})\b",
    ),
    _form(
        "discuss brainstorm elaborate reflect imagine pretend role summari paraphrase rewrite critique argue debate "
        "outline suggest recommend advise",
        rf"{_PLEASE}(?:discuss|brainstorm|elaborate|reflect|imagine|pretend|role.?play|summari[sz]e|"
        r"paraphrase|rewrite|critique|argue|debate|outline|suggest|recommend|advise)\b",
        _LINES,
    ),
    _form(
        "describe",
        rf"{_PLEASE}describe\s+(?:an?|your|my|how|why|what|in|the\s+(?:process|difference|importance|role|"
        r"impact|main|history|life|feeling|atmosphere|structure|concept))\b",
        _LINES,
    ),
    _form("explain", rf"{_PLEASE}explain\b(?!\s+your\b)", _LINES),
    _form(
        "think your feel",
        r"\bwhat\s+do\s+you\s+think\b|\byour\s+(?:own\s+)?(?:opinion|thoughts|favou?rite|view|perspective)\b|"
        r"\bhow\s+do\s+you\s+feel\b|\bin\s+your\s+own\s+words\b",
    ),
    _form(
        "ideas tips suggestions advice recommendations ways reasons pros",
        r"\b(?:give|list|suggest|share|offer|name|provide)\s+(?:me\s+|us\s+)?(?:some|a\s+few|several|\w+\s+)?\s*(?:ideas|tips|suggestions|advice|"
        r"recommendations|ways|reasons|pros\s+and\s+cons)\b|\bpros\s+and\s+cons\b",
    ),
    _form(
        "hi hello hey thank good",
        r"^\s*(?:hi|hello|hey|thanks|thank\s+you|good\s+(?:morning|evening))\b[^?\d]*$",
        _LINES,
    ),
    PhraseForm(pattern=re.compile(r"写一(?:篇|首|个故事|封)|谈谈"), words=()),
)  # fmt: skip


def several_questions(text: str) -> bool:
    """Two questions or more, or lettered parts that each ask.

    >>> several_questions("What is 3+4? Answer with a number."), several_questions("Is 7 prime? Why?")
    (False, True)
    """
    text = _unquoted(text)
    marks = (
        {next(g for g in found if g).lower() for found in _PART.pattern.findall(text)}
        if _PART.may_stand_in(text.lower())
        else set()
    )
    return (
        len(_ASKED.findall(text)) >= 2
        or len(marks) >= 2
        or len(_NUMBERED.findall(text)) >= 2
        or _SECOND.search(text) is not None
    )


def proof(text: str) -> bool:
    """Asks for a proof: right or wrong can't be read off an answer."""
    return _has_form(text, PROOFS)


def open_generation(text: str) -> bool:
    """Asks for a text that may be good in many ways.

    >>> open_generation("Write a poem about the sea."), open_generation("Write 3/4 as a decimal.")
    (True, False)
    """
    return _has_form(text, OPEN)


def _has_form(text: str, forms: Sequence[PhraseForm]) -> bool:
    text = _unquoted(text)
    lower = text.lower()
    return any(form.may_stand_in(lower) and form.pattern.search(text) for form in forms)


def _unquoted(text: str) -> str:
    return _QUOTED.sub(" ", text) if any(mark in text for mark in _QUOTES) else text


RULES: Mapping[str, tuple[str, Rule]] = {
    "proof": ("asks for a proof", proof),
    "open_generation": ("open generation", open_generation),
    "several_questions": ("several questions", several_questions),
}
"""A recipe's name of a rule, its reason, and the rule. `no_answer` looks at columns: see `unverifiable`."""

NO_ANSWER = "nothing to verify with"
TESTED = ("tests", "hidden_tests", "entry")
"""Columns that verify a program or a generated task: however it is told, it has one outcome."""


def unverifiable(
    prompt: Prompt, rules: Sequence[str], rewards: Sequence[RewardUse], needed: Mapping[str, Sequence[str]]
) -> str | None:
    """The reason why a query can't be verified; `needed` are the columns of each reward."""
    if "no_answer" in rules and not _has_answer(prompt, rewards, needed):
        return NO_ANSWER
    if any(prompt.columns.get(name) for name in TESTED):
        return None
    asked = [str(m.get("content") or "") for m in prompt.messages if m.get("role") == "user"]
    text = prose(asked[-1]) if asked else ""
    for name in rules:
        if name in RULES and RULES[name][1](text):
            return RULES[name][0]
    return None


def answered(prompts: Sequence[Prompt], rewards: Sequence[RewardUse], recipe_dir: Path) -> list[Prompt]:
    """The prompts that the rule `no_answer` keeps."""
    needed = {use.use: needed_columns(use, recipe_dir) for use in rewards}
    return [prompt for prompt in prompts if _has_answer(prompt, rewards, needed)]


def _has_answer(prompt: Prompt, rewards: Sequence[RewardUse], needed: Mapping[str, Sequence[str]]) -> bool:
    """Whether a reward that applies to the row has all that it reads."""
    columns = row_columns(prompt)
    mine = [use for use in rewards if applies(use, columns)]
    return any(all(_given(columns.get(name)) for name in needed[use.use]) for use in mine)


def _given(value: object) -> bool:
    return value is not None and (not isinstance(value, str | list | dict | tuple) or bool(value)) and value != " "
