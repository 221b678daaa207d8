"""(3) Clear guesswork without adequate reasoning: it was to think and didn't, or it ends by guessing."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from posttrain.stages.filters.text_parts import without_code
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

_PICK = r"(?:go|going|stick|run)\s+(?:with|for)|pick|choose|say|put|answer|select|take|try"
_GUESS = re.compile(
    rf"""
      \b(?:i(?:'ll|\ will|'m|\ am|\ can|\ could|\ have\ to|'ll\ have\ to|\ must|\ would|'d)?|let\ me|let's|we(?:'ll)?
          |i'm\ going\ to)
        \s+(?:just\s+|only\s+|simply\s+|randomly\s+|blindly\s+|probably\s+|to\s+|have\s+to\s+|wildly\s+|basically\s+)*
        guess(?:ing)?\b
    | \b(?:just|only|wild|random|lucky|blind|pure|best|total|complete|educated|rough)\s+(?:a\s+|my\s+)?
        guess(?:ing|work)?\b
    | \b(?:a|my)\s+(?:wild|random|lucky|blind|pure|total|complete|shot)\s+(?:guess|in\ the\ dark)\b
    | \b(?:my|the)\s+(?:final\s+)?guess\s+(?:is|would\s+be|will\s+be)\b | \bguess(?:ing)?\s+it(?:'s|\ is)\b
    | \bat\s+random\b | \brandomly\s+(?:pick|choos|select)
    | \b(?:my\s+)?(?:gut|hunch|intuition|instinct)(?:\s+feeling)?\s+(?:says|tells|is|suggests)\b
    | \bgo(?:ing)?\s+with\s+my\s+gut\b
    | (?:\bi\s+(?:really\s+)?(?:have|had|have\s+got)|\bi've(?:\s+got)?|(?:^|[.!?;,:]\s))\s*
        (?:absolutely\s+)?no\s+(?:real\s+)?(?:idea|clue)\b
    | \bi\s+(?:don't|do\ not)\s+have\s+(?:any|the\s+slightest)\s+(?:idea|clue)\b
    | \b(?:don't|do\ not|can't|cannot|couldn't)\s+(?:really\s+)?(?:know|figure|work|solve|see|compute|remember|tell)\b
      [^.!?\n]{{0,80}}?(?:[,;.\-–—]|\bso\b|\bbut\b)\s*(?:so\s+|but\s+)?
        (?:i(?:'ll|\ will)|let\ me|let's)\s+(?:just\s+)?(?:{_PICK})\b
    | \b(?:just|simply)\s+(?:{_PICK})\s+(?:some|any|one|something|a\ number|the\ (?:first|middle|last)|\d+|[A-H])\b
    | \b(?:looks?|seems?|sounds?|feels?)\s+(?:about\s+|kind\ of\s+|like\s+)?(?:a\s+)?
        (?:right|plausible|reasonable|nice|likely|good)
      [^.\n]{{0,20}}[,;.]?\s*(?:so\s+)?(?:i(?:'ll|\ will)|let\ me|let's)\s+(?:just\s+)?(?:{_PICK})\b
    | \b(?:it's|it\ is|is|must\ be)\s+(?:probably|maybe|perhaps|presumably)\b[^.\n]{{0,40}}
        (?:\bsomething\ like\b|\bor\ so\b|\bwho\ knows\b)
    | \b(?:usually|often|typically)\s+(?:the\s+answer|these|such)\b[^.\n]{{0,60}}\bso\b
    | \b(?:it's|it\ is|a)\s+(?:just\s+)?(?:a\s+)?coin\s+(?:flip|toss)\b
    | \beeny\b | \bwhatever\b[^.\n]{{0,20}}\b(?:{_PICK})\b
    | 我猜|随便选|随便猜|瞎猜|蒙一个|猜一个 | \bich\s+rate\s+(?:einfach|mal)\b
    | \bje\s+devine\b | \b(?:vou|voy\s+a)\s+adivinhar\b | \b(?:voy\s+a\s+)?adivinar[eé]?\b
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_COMPUTED = re.compile(r"=|≈|\bcheck\w*|\bverif\w+|✓|验证", re.IGNORECASE)
_CHECK = re.compile(
    r"=|≈|\bcheck\w*|\bverif\w+|\bbecause\b|\bsince\b|\btherefore\b|\bhence\b|\bthus\b|\bproof\b|\bprove\w*|✓|\bindeed\b"
    r"|\bcomput\w+|\bcalculat\w+|\bconfirm\w*|\bplug\w*|\bsubstitut\w+|\bactually work|因为|所以|验证",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"[=<>≤≥≈→⇒+*/×÷^]|\d\s*[-−–]\s*\d|->|:|\\|\b(?:because|since|so|therefore|thus|hence|then|if|when|which|means|first|next|add|"
    r"subtract|multipl\w+|divid\w+|times|plus|minus|gives?|follow\w*|must|only|but|after|before|between|each|not)\b|因为|所以|如果|那么|由于",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\b(?:so|thus|hence|therefore|well|ok|okay),?\s+)?\b(?:the|my|our|final)\s+(?:final\s+)?(?:answer|result|solution)\s*"
    r"(?:is|=|:|must\s+be|should\s+be|will\s+be)[^\n.;]*(?:\.\d+)?[.;]?|答案是[^\n。]*",
    re.IGNORECASE,
)
"""A bare statement of the answer, which is no step to it."""

_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+")


def guesswork(
    prompt: Prompt, completion: Completion, score: Score, *, fewest_words: Annotated[int, Field(ge=0)] = 4
) -> str | None:
    """It was to think, and the think block is empty or only states an answer; or it guesses, and nothing after that
    checks the guess.

    A block of fewer than `fewest_words` words, or of less than twice as many without any step (a sign, a connective, a
    colon), states an answer.
    """
    split = split_thinking(completion.last_turn)
    wanted = prompt.mode in ("default", "think")
    if wanted and split.empty:
        return "no reasoning"
    if wanted and split.closed and not completion.turns and not _has_steps(split.thinking, fewest_words):
        return "no reasoning"
    said = without_code(f"{split.thinking}\n\n{split.answer}")
    asked = " ".join(str(m.get("content") or "") for m in prompt.messages).lower()
    for found in _GUESS.finditer(said):
        if found[0].lower() in asked or _denied(said, found.start()):
            continue
        rest = said[found.end() : max(found.end(), len(split.thinking))]  # what is thought after it; the answer repeats
        later = re.split(r"(?<=[.!?。])\s|\n", rest, maxsplit=1)[1:]
        if not _COMPUTED.search(rest) and not any(_CHECK.search(part) for part in later):
            return "guesswork"
    return None


def _has_steps(thinking: str, fewest: int) -> bool:
    thinking = _STATED.sub(" ", thinking)
    words = len(_WORD.findall(thinking))
    signs = len(re.findall(r"\d\s*[-+*/×÷^]\s*-?\d|\d\s*=|=\s*-?[\d\w]", thinking))
    return signs > 0 or words >= 2 * fewest or (words >= fewest and _REASON.search(thinking) is not None)


def _denied(text: str, at: int) -> bool:
    """A guess that is spoken of, not made: quoted, denied, or put aside."""
    before = text[max(0, at - 40) : at].lower()
    return bool(
        re.search(r"(?:not|n't|never|rather than|instead of|without|no need to|than|avoid)\s+(?:\w+\s+){0,2}$", before)
    ) or before.rstrip().endswith(('"', "“", "'"))
