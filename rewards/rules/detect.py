"""Which language a text is written in, and in which scripts: py3langid (langid.py's kept fork, with its model).

What is no prose says nothing about its language and is left out: code, formulas, addresses.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from typing import Any

MIN_LETTERS = 24
"""A shorter text could be in several languages. See `_weight`."""
_SYLLABLES = frozenset(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))
_ALPHABETS = frozenset(("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN"))
_MOST = 20_000
_FENCED = re.compile(r"^[ \t]{0,3}(```|~~~)")
_NO_PROSE = re.compile(r"`[^`\n]*`|\$[^$\n]*\$|\\\[[^\]\n]{0,300}\\\]|\bhttps?://\S+|\\[A-Za-z]+|<[^<>\n]*>")
_MARKS = ("`", "~", "$", "\\", "http", "<")
"""One of them stands in whatever `prose` takes out of ASCII."""

_SCRIPTS = {
    "ARABIC": "ar fa ur ps ug", "CYRILLIC": "ru uk bg sr mk be kk ky mn", "GREEK": "el", "HEBREW": "he",
    "DEVANAGARI": "hi mr ne", "BENGALI": "bn as", "GUJARATI": "gu", "GURMUKHI": "pa", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "ORIYA": "or", "SINHALA": "si", "THAI": "th", "LAO": "lo", "KHMER": "km",
    "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am", "HANGUL": "ko", "CJK": "zh ja ko", "HIRAGANA": "ja",
    "KATAKANA": "ja",
}  # fmt: skip
_TWINS = ({"hr", "bs", "sr"}, {"no", "nb", "nn"}, {"id", "ms"})
"""Languages that no detector tells apart in a short text."""


def code_of(language: str) -> str:
    """The bare ISO 639-1 code of a tag: zh of zh-CN."""
    return re.split(r"[-_]", language.strip().lower())[0]


def scripts_of(language: str) -> frozenset[str]:
    """The scripts that a language is written in, by the first word of their characters' Unicode names."""
    code = code_of(language)
    found = {script for script, languages in _SCRIPTS.items() if code in languages.split()}
    return frozenset(found | {"LATIN"} if code == "sr" or not found else found)


def prose(text: str) -> str:
    """The text without fenced blocks, inline code, formulas, marks and addresses."""
    if text.isascii() and not any(mark in text for mark in _MARKS):
        return text
    kept: list[str] = []
    fence = ""
    for line in text.split("\n"):
        mark = _FENCED.match(line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
        elif not fence:
            kept.append(line)
    return _NO_PROSE.sub(" ", unicodedata.normalize("NFKC", "\n".join(kept)))


def letters_by_script(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    counts: Counter[str] = Counter()
    for character, number in Counter(text).items():
        if character.isalpha():
            counts[script_of(character)] += number
    return counts


@functools.lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """The script of a character, as the first word of its Unicode name."""
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]


def is_long_enough(text: str) -> bool:
    """Whether a text has enough letters to tell its language."""
    return sum(number * _weight(script) for script, number in letters_by_script(text).items()) >= MIN_LETTERS


def _weight(script: str) -> int:
    """How many letters a character is worth: 3 for syllables and words, 2 where vowels are marks or aren't written."""
    return 3 if script in _SYLLABLES else 1 if script in _ALPHABETS else 2


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language of a text's prose; None if it is too short to tell."""
    cleaned = prose(text)
    if not is_long_enough(cleaned):
        return None
    if len(cleaned) > _MOST:  # evenly from all of it: a switch of languages in the middle counts
        step = len(cleaned) // 10
        cleaned = " ".join(cleaned[i : i + _MOST // 10] for i in range(0, step * 10, step))
    return str(_identifier().classify(cleaned.lower())[0])


def is_in(text: str, language: str) -> bool | None:
    """Whether a text's prose is in `language`; None if it is too short to tell."""
    found, wanted = language_of(text), code_of(language)
    if found is None:
        return None
    return found == wanted or any({found, wanted} <= twins for twins in _TWINS)


@functools.lru_cache(maxsize=1024)
def is_known(language: str) -> bool:
    """Whether the detector can find a language at all."""
    return code_of(language) in {str(label) for label in _identifier().labels if len(str(label)) == 2}


def prompt_text(prompt: Any) -> str:
    """What the user and the system say in a prompt."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(m.get("content") or "") for m in prompt or () if m.get("role") in ("user", "system"))


@functools.lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    # Those with a two-letter code: with its small and ancient relatives among them, plain text is found less surely.
    identifier.set_languages([label for label in map(str, identifier.labels) if len(label) == 2])
    return identifier
