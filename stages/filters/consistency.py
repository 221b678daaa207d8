"""(4) Thinking and summary inconsistent: what was concluded isn't what is answered."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from posttrain.rewards.mathematics.boxed import last_boxed
from posttrain.rewards.mathematics.math import same
from posttrain.stages.filters.text_parts import numerals, values, without_code
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

_CLAIM = re.compile(
    r"\b(?:the|my|our|final|correct|so)\s+(?:final\s+|correct\s+|right\s+)?(?:answer|result|solution|choice|option)\s*"
    r"(?:is|=|:|must\s+be|should\s+be|would\s+be|becomes|comes\s+out\s+(?:as|to)|turns\s+out\s+to\s+be)\s*:?\s*"
    r"|\b(?:final\s+)?answer\s*[:=]\s*|\bit\s+must\s+be\s+(?=option|choice|\(?[A-H]\b)|答案[是为：:]+\s*",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"""[*_$"'`\s]*(?:
        \\boxed\{(?P<boxed>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}
      | (?P<fraction>-?\\[dt]?frac\{[^{}]*\}\{[^{}]*\})
      | (?:option|choice)?\s*\(?(?P<letter>[A-H])\b(?!['’])\)?
      | (?P<number>[-−–]?\s?[$€£]?\s?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?(?:\s*\\?%)?)
      | (?P<word>[^\W\d_]+)
    )""",
    re.VERBOSE,
)
_YES = {"yes": "yes", "true": "yes", "correct": "yes", "no": "no", "false": "no", "incorrect": "no", "never": "no"}
_NONE = re.compile(
    r"\b(?:no\s+(?:real\s+|such\s+|integer\s+|valid\s+)?solutions?|impossible|does(?:n't|\s+not)\s+exist|undefined|no\s+answer)\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|no,|hmm|mistake|wrong|actually|but\s+that|incorrect|not\s+quite|oops|redo|re-?check|let\s+me\s+re)",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"^\s*(?:[-*]\s+)?(?:step\s+)?\d+[.):]\s+", re.IGNORECASE | re.MULTILINE)


def consistent(
    prompt: Prompt,
    completion: Completion,
    score: Score,
    *,
    known: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> str | None:
    """The thinking's last conclusion isn't the summary's answer; or the answer's number, or more than 1 - `known` of
    the summary's numbers (of four or more), stand neither in the thinking nor in the prompt.

    Conclusions are compared as values: 1/2 is 0.5 and 50 %, 1,200 is 1200. One that the thinking takes back doesn't
    count, and where it draws none in words, its numbers do.
    """
    split = split_thinking(completion.last_turn)
    if split.empty or not split.answer:
        return None
    concluded, answered = _conclusion(split.thinking), _answer(split.answer)
    if concluded is not None and answered is not None and (agree := _agree(concluded, answered)) is not None:
        if not agree:
            return "inconsistent summary"
    elif answered is not None and not _stands(answered, split.thinking):
        return "inconsistent summary"
    gave_up = _NONE.search(split.thinking[-160:]) and not _NONE.search(split.answer)
    if gave_up and answered is not None and _is_number(answered) and not values(answered) <= {0}:
        return "inconsistent summary"
    asked = "\n".join(str(m.get("content") or "") for m in prompt.messages)
    if concluded is None and answered is not None and _is_operand(answered, split.thinking, asked):
        return "inconsistent summary"
    said = values(_LIST_MARK.sub("", without_code(split.answer)))
    strange = said - values(asked) - values(split.thinking)
    return "inconsistent summary" if len(said) >= 4 and len(strange) > (1 - known) * len(said) else None


def _conclusion(thinking: str) -> str | None:
    """The last answer that the thinking draws and doesn't take back at once; None if it draws none in words."""
    boxed = last_boxed(thinking)
    at = thinking.rfind("\\boxed")
    claims = list(_CLAIM.finditer(thinking))
    if boxed is not None and (not claims or at >= claims[-1].start()):
        return None if _TAKEN_BACK.search(thinking[at:]) else boxed
    if not claims:
        return None
    value = _value(thinking[claims[-1].end() :])
    after = thinking[claims[-1].end() :].partition("\n")[0] + thinking[claims[-1].end() :][:400]
    return None if value is None or _TAKEN_BACK.search(after) else value


def _answer(answer: str) -> str | None:
    """What the summary gives as its answer: the box, the claim, or the last number of a text without code."""
    boxed = last_boxed(answer)
    if boxed is not None:
        return boxed
    claims = list(_CLAIM.finditer(answer))
    if claims and (value := _value(answer[claims[-1].end() :])) is not None:
        return value
    first = re.match(r"[*_\s]*(?:option\s+|\()?([A-H]|yes|no|true|false)\b[).:,*_\s]", answer + " ", re.IGNORECASE)
    if first and (len(first[1]) > 1 or first[1].isupper()) and (len(first[1]) > 1 or not re.match(r"A\s+\w", answer)):
        return first[1]
    found = numerals(_LIST_MARK.sub("", without_code(answer)))
    return found[-1] if found else None


def _value(text: str) -> str | None:
    found = _VALUE.match(text)
    if found is None:
        return None
    if found["word"] is not None:
        word = found["word"].lower()
        return word if word in _YES or values(word) else None
    return next((group.strip() for group in found.groups() if group), None)


def _agree(concluded: str, answered: str) -> bool | None:
    """Whether two conclusions are one; None where they can't be compared."""
    left, right = (_plain(text) for text in (concluded, answered))
    if left == right:
        return True
    if left in _YES and right in _YES:
        return _YES[left] == _YES[right]
    if len(left) == len(right) == 1 and left.isalpha() and right.isalpha():
        return False
    a, b = values(left), values(right)
    if a and b and _is_number(left) and _is_number(right):
        signs = left.startswith("-") == right.startswith("-") or a == {0}
        return (bool(a & b) and signs) or _close(left, right)
    verdict = same(concluded, answered) if not (left in _YES or right in _YES) else None
    return verdict if isinstance(verdict, bool) and (a or b) and _is_number(left) == _is_number(right) else None


def _close(left: str, right: str) -> bool:
    """Equal once rounded as the coarser of the two is."""
    try:
        a, b = (float(re.sub(r"[^\d.eE-]", "", text)) for text in (left, right))
    except ValueError:
        return False
    places = min(len(text.partition(".")[2]) for text in (re.sub(r"[^\d.]", "", left), re.sub(r"[^\d.]", "", right)))
    return round(a, places) == round(b, places)


def _stands(answered: str, thinking: str) -> bool:
    """Whether the answer's numbers stand in the thinking; an answer without numbers isn't looked for."""
    wanted = values(_plain(answered))
    if not wanted or not _is_number(_plain(answered)):
        return True
    there = values(thinking) | {abs(v) for v in values(thinking)}
    return bool(wanted & there) or any(_close(answered, number) for number in numerals(thinking))


def _is_operand(answered: str, thinking: str, asked: str) -> bool:
    """Whether the answer is only a number of the question again, where the thinking ends with another result."""
    value, last = values(_plain(answered)), thinking.strip().splitlines()[-1]
    ends = re.search(r"=\s*(-?[\d.,/]*\d)\W*$", last)
    if len(value) != 1 or not ends or not value <= values(asked) or re.search(r"check|verif|✓", last, re.IGNORECASE):
        return False
    results = set().union(*(values(found) for found in re.findall(r"[=:≈]\s*(-?[\d.,/]*\d)", thinking)))
    return not value & results


def _is_number(text: str) -> bool:
    return bool(values(text)) and len(re.sub(r"[^a-z]", "", re.sub(r"\\[a-z]+", "", text.lower()))) <= 12


def _plain(text: str) -> str:
    text = re.sub(r"\\text\w*\{([^{}]*)\}|\\mathrm\{([^{}]*)\}", lambda m: m[1] or m[2] or "", text)
    return re.sub(r"[\s$*_€£]|\\[,;! ]", "", text).replace("−", "-").replace("–", "-").strip("().").lower()
