"""(5) Inappropriate language mixing or a shift of style."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from pydantic import Field

from posttrain.rewards.rules.detect import is_in, language_of, letters_by_script, prose
from posttrain.stages.filters.text_parts import sentences
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

Share = Annotated[float, Field(ge=0, le=1)]

_NAMED = re.compile(
    r"\b(?:translat\w+|languages?|chinese|mandarin|japanese|korean|russian|greek|hebrew|arabic|hindi|thai|french|german|"
    r"spanish|italian|portuguese|latin|polish|dutch|turkish|swedish|czech|ukrainian|vietnamese|pinyin|kanji|hiragana|"
    r"übersetz\w*|tradu\w+|перевед\w*|alphabet|letters? of)\b|翻译|英语|中文|法语|德语|日语|汉字",
    re.IGNORECASE,
)
_SYMBOLS = frozenset("αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩµ")
_QUOTED = re.compile(
    r"\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”|«[^»\n]{0,300}»|「[^」\n]{0,300}」|\([^()\n]{0,60}\)|\*[^*\n]{0,80}\*"
)
_EMOJI = re.compile(r"[\U0001F300-\U0001FAFF☀-⛿]")
_ROLES = re.compile(
    r"^\s*(?:human|user|assistant|system|### ?(?:instruction|response|input))\s*:|<\|im_(?:start|end)\|>", re.I | re.M
)
_STYLE = re.compile(
    r"\b(?:style|slang|pirate|shakespeare\w*|tone|casual\w*|informal\w*|dialogue|role.?play|as if you)\b", re.IGNORECASE
)
_SLANG = re.compile(
    r"\b(?:lol|lmao|omg|wtf|bruh|bro|dude|gonna|gotta|wanna|ur|plz|pls|thx|imho|idk|tbh|ngl|yolo|u|coz|cuz|ain't|y'all|"
    r"yo|fam|lit|sus|kinda|sorta|haha+|hehe+|arr+|matey|ahoy|thee|thou|thy|hath|doth|verily|forsooth|methinks|quoth)\b|😂|🤣",
    re.IGNORECASE,
)


def language(
    prompt: Prompt, completion: Completion, score: Score, *, foreign: Share = 0.02, slang: Share = 0.04
) -> str | None:
    """More than `foreign` of the letters are in scripts that nobody asked for, a sentence is in another language than
    the rest, or the style shifts: shouting, slang (over `slang` of the words), emoji, other people's turns, broken
    characters.

    Latin is always allowed, as a block of its own: a Chinese sentence may not end in English. Code, formulas and
    quotations aren't looked at, and a prompt that speaks of languages allows any.
    """
    asked = "\n".join(str(m.get("content") or "") for m in prompt.messages)
    split = split_thinking(completion.last_turn)
    parts = [completion.said] if completion.turns else [split.thinking, split.answer]
    if any("�" in part and "�" not in asked for part in parts):
        return "broken characters"
    if not _NAMED.search(asked) and _mixes(asked, parts, foreign):
        return "language mixing"
    return "style shift" if _shifts(asked, parts, slang) else None


def _mixes(asked: str, parts: list[str], most: float) -> bool:
    allowed = {*letters_by_script(asked), "LATIN"}
    used: Counter[str] = Counter()
    for part in parts:
        used += letters_by_script("".join(c for c in prose(part) if c not in _SYMBOLS))
    strange = sum(n for script, n in used.items() if script not in allowed)
    if strange > most * max(1, used.total()):
        return True
    return any(_two_languages(asked, prose(part)) for part in parts)


def _two_languages(asked: str, text: str) -> bool:
    """Whether one sentence of a text is in another language than the text as a whole and the prompt."""
    text = _QUOTED.sub(" ", text)
    main, wanted = language_of(text), language_of(asked)
    if main is None:
        return False
    said = [s for s in sentences(text) if len(s.split()) >= 6 or _dense(s)]
    odd = [s for s in said if is_in(s, main) is False and (wanted is None or is_in(s, wanted) is False)]
    return (len(said) > 1 and any(_surely_other(s, main) for s in odd)) or _half_and_half(text)


def _dense(sentence: str) -> bool:
    letters = letters_by_script(sentence)
    return letters.total() - letters["LATIN"] >= 8


def _surely_other(sentence: str, main: str) -> bool:
    """Common words of another language stand in it, at most one of the main one's. Short sentences fool detectors."""
    found = language_of(sentence)
    words = set(re.findall(r"[^\W\d_]+", sentence.lower()))
    if found not in _COMMON or main not in _COMMON:
        return main in _COMMON and found not in _COMMON and letters_by_script(sentence)["LATIN"] < 0.5 * len(sentence)
    return len(words & _COMMON[found]) >= 2 > len(words & _COMMON[main])


def _half_and_half(text: str) -> bool:
    """Function words of two languages, each many: sentences that switch in the middle."""
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    counts = {code: sum(words[w] for w in common) for code, common in _COMMON.items()}
    main = max(counts, key=lambda code: counts[code])
    for code, common in _COMMON.items():
        other = [w for w in common - _COMMON[main] if words[w]]
        if code != main and len(other) >= 3 and sum(words[w] for w in other) >= max(3, 0.25 * counts[main]):
            return True
    return False


_COMMON = {
    code: frozenset(words.split())
    for code, words in {
        "en": "the is of and to that this we have with are it in for be so then which was not first now from by",
        "de": "der die das und ist nicht wir mit ein eine zu den dann also auch auf für von sind wird durch noch aber",
        "fr": "le les des et est une nous dans que pour avec donc qui pas sont sur par plus cette alors il faut",
        "es": "el los las y es una que por para con entonces son del se como pero más esta hay tiene nos",
        "it": "il gli di e è una che per con quindi sono della non si come ma più questa abbiamo allora nel",
        "pt": "os as e é uma que para com então são do da não se como mas mais esta temos por em",
        "nl": "het een en is niet we met van dat zijn dan ook op voor wordt door nog maar dus ik",
    }.items()
}


def _shifts(asked: str, parts: list[str], slang: float) -> bool:
    text = "\n".join(prose(part) for part in parts)
    if any(_ROLES.search(part) for part in parts) and not _ROLES.search(asked):
        return True
    if len(_EMOJI.findall(text)) >= 3 and not _EMOJI.search(asked) and "emoji" not in asked.lower():
        return True
    words = re.findall(r"[^\W\d_][\w']*", text)
    loud = [w for w in words if len(w) >= 3 and w.isupper()]
    asked_for = re.search(r"upper\s?case|capital", asked, re.IGNORECASE) or _shouts(
        re.findall(r"[^\W\d_][\w']*", asked)
    )
    if _shouts(words) and len(loud) < 0.9 * len(words) and not asked_for:
        return True
    if re.search(r"!{4,}|\?{4,}", text) and not re.search(r"!{4,}|\?{4,}", asked):
        return True
    found = [m[0] for m in _SLANG.finditer(_QUOTED.sub(" ", text))]
    wanted = _SLANG.search(asked) or _STYLE.search(asked)
    return len(found) >= 2 and len(found) > slang * len(words) and not wanted


def _shouts(words: list[str]) -> bool:
    """Five words in a row in capitals."""
    run = 0
    for word in words:
        run = run + 1 if len(word) >= 2 and word.isupper() else 0
        if run >= 5:
            return True
    return False
