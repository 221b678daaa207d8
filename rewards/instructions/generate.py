"""Writes prompts with verifiable instructions, in words of our own: training prompts with no download.

One to three instructions a prompt, never two that contradict each other or that no sane answer meets together.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Written = tuple[str, dict[str, Any]]
"""What the prompt says of an instruction, and the instruction's arguments."""

_KEYWORDS = ("bridge", "garden", "light", "market", "mirror", "river", "stone", "teacher", "winter", "window")
_REPEATED = ("because", "people", "often", "small", "time")
_FORBIDDEN = ("very", "really", "things", "just", "important", "however", "great", "basically")
_LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "nl": "Dutch", "pt": "Portuguese"}
_ENDINGS = ("That is all I know.", "What would you do?", "Ask me again tomorrow.", "Now it is your turn.")


def _either(rng: random.Random, least: int, most: int, unit: str) -> tuple[str, int, str]:
    """(wording, number, relation) of a bound."""
    relation = rng.choice(("at least", "less than"))
    number = rng.randint(least, most)
    return (f"at least {number} {unit}" if relation == "at least" else f"fewer than {number} {unit}"), number, relation


def _listed(words: list[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _existence(rng: random.Random) -> Written:
    words = rng.sample(_KEYWORDS, rng.randint(1, 3))
    return f"Use these words somewhere: {_listed(words)}.", {"keywords": words}


def _frequency(rng: random.Random) -> Written:
    word = rng.choice(_REPEATED)
    bound, number, relation = _either(rng, 2, 4, "times")
    return f"The word '{word}' has to occur {bound}.", {"keyword": word, "frequency": number, "relation": relation}


def _forbidden(rng: random.Random) -> Written:
    words = rng.sample(_FORBIDDEN, rng.randint(1, 3))
    return f"Do without these words: {_listed(words)}.", {"forbidden_words": words}


def _letter(rng: random.Random) -> Written:
    if rng.random() < 0.5:
        letter, number, relation, words = rng.choice("es"), rng.randint(5, 25), "at least", "at least"
    else:
        letter, number, relation, words = rng.choice("qz"), rng.randint(1, 3), "less than", "fewer than"
    wording = f"The letter '{letter}' has to occur {words} {number} times."
    return wording, {"letter": letter, "let_frequency": number, "let_relation": relation}


def _language(rng: random.Random) -> Written:
    code = rng.choice(sorted(_LANGUAGES))
    return f"Write all of it in {_LANGUAGES[code]}, with no other language in it.", {"language": code}


def _sentences(rng: random.Random) -> Written:
    bound, number, relation = _either(rng, 3, 8, "sentences")
    return f"Write {bound}.", {"num_sentences": number, "relation": relation}


def _words(rng: random.Random) -> Written:
    bound, number, relation = _either(rng, 60, 150, "words")
    return f"Write {bound}.", {"num_words": number, "relation": relation}


def _paragraphs(rng: random.Random) -> Written:
    number = rng.randint(2, 4)
    wording = f"Write exactly {number} paragraphs, and put a line with just *** between each and the next."
    return wording, {"num_paragraphs": number}


def _nth_paragraph(rng: random.Random) -> Written:
    number = rng.randint(2, 4)
    nth, word = rng.randint(1, number), rng.choice(_KEYWORDS)
    wording = (
        f"Write exactly {number} paragraphs with a blank line between them; "
        f"number {nth} of them has to start with the word '{word}'."
    )
    return wording, {"num_paragraphs": number, "nth_paragraph": nth, "first_word": word}


def _placeholders(rng: random.Random) -> Written:
    number = rng.randint(1, 4)
    wording = f"Leave at least {number} gaps to fill in, each named in square brackets, like [date]."
    return wording, {"num_placeholders": number}


def _postscript(rng: random.Random) -> Written:
    marker = rng.choice(("P.S.", "P.P.S"))
    return f"Close with a postscript on a line that starts with {marker}", {"postscript_marker": marker}


def _bullets(rng: random.Random) -> Written:
    number = rng.randint(2, 5)
    return f"Have exactly {number} bullet points, each on a line that starts with '* '.", {"num_bullets": number}


def _constrained(rng: random.Random) -> Written:
    options = ["'My answer is yes.'", "'My answer is no.'", "'My answer is maybe.'"]
    rng.shuffle(options)
    return f"Reply with one of these and nothing else: {', '.join(options)}", {}


def _highlights(rng: random.Random) -> Written:
    number = rng.randint(1, 4)
    return f"Set at least {number} phrases between stars, *like this*.", {"num_highlights": number}


def _sections(rng: random.Random) -> Written:
    number, name = rng.randint(2, 4), rng.choice(("SECTION", "PART", "CHAPTER"))
    wording = f"Divide it into {number} parts and head each by a line of its own: {name} 1, {name} 2 and so on."
    return wording, {"section_spliter": name, "num_sections": number}


def _end(rng: random.Random) -> Written:
    phrase = rng.choice(_ENDINGS)
    return f"The last words have to be: {phrase}", {"end_phrase": phrase}


def _capital_words(rng: random.Random) -> Written:
    bound, number, relation = _either(rng, 2, 6, "words")
    return f"Write {bound} in capitals only.", {"capital_frequency": number, "capital_relation": relation}


def _fixed(wording: str) -> Callable[[random.Random], Written]:
    return lambda rng: (wording, {})


WRITERS: dict[str, Callable[[random.Random], Written]] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _fixed("Put all of it into one JSON object, with nothing around it."),
    "detectable_format:title": _fixed("Give it a title in double angular brackets, like <<a quiet day>>."),
    "combination:two_responses": _fixed("Give two different versions, and put six stars between them: ******"),
    "combination:repeat_prompt": _fixed("Before you do it, say the request's first line again, word for word."),
    "startend:end_checker": _end,
    "startend:quotation": _fixed('Put double quotation marks (") around the whole of it.'),
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _fixed("Write in English, in CAPITAL LETTERS only."),
    "change_case:english_lowercase": _fixed("Write in English, in small letters only, without a single capital."),
    "punctuation:no_comma": _fixed("Use no commas."),
}
"""How each instruction is asked for; the ids are those of `CHECKERS`."""

_JSON, _TWO, _REPEAT = "detectable_format:json_format", "combination:two_responses", "combination:repeat_prompt"
_SENTENCES, _CAPITAL_WORDS = "length_constraints:number_sentences", "change_case:capital_word_frequency"
_UPPER, _LOWER, _END = "change_case:english_capital", "change_case:english_lowercase", "startend:end_checker"
_PARAGRAPHS, _NTH = "length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"
_WORDS, _BULLETS = "length_constraints:number_words", "detectable_format:number_bullet_lists"
_SECTIONS, _POSTSCRIPT = "detectable_format:multiple_sections", "detectable_content:postscript"
_QUOTATION, _TITLE, _LANGUAGE = "startend:quotation", "detectable_format:title", "language:response_language"
_FREE = {"keywords:existence", "keywords:frequency", "keywords:forbidden_words", "keywords:letter_frequency"}
ALONE = frozenset({"detectable_format:constrained_response"})
"""These leave no room for another."""

CONFLICTS: dict[str, set[str]] = {
    _JSON: set(WRITERS) - _FREE - {_WORDS, _LANGUAGE},
    _LANGUAGE: _FREE | {_UPPER, _LOWER, _END, _REPEAT, _NTH, _SECTIONS, _CAPITAL_WORDS, _POSTSCRIPT},
    _TWO: {_PARAGRAPHS, _NTH, _REPEAT, _QUOTATION, _END, _POSTSCRIPT, _SECTIONS, _TITLE, _SENTENCES},
    _REPEAT: {_UPPER, _LOWER, _NTH, _QUOTATION, _SENTENCES, _CAPITAL_WORDS, "keywords:forbidden_words",
              "keywords:letter_frequency", "keywords:frequency", "punctuation:no_comma"},
    _UPPER: {_LOWER, _CAPITAL_WORDS},
    _LOWER: {_CAPITAL_WORDS, _SECTIONS, _POSTSCRIPT},
    _CAPITAL_WORDS: {_SECTIONS, _POSTSCRIPT},
    _SENTENCES: {_WORDS, _PARAGRAPHS, _NTH, _SECTIONS, _BULLETS, _POSTSCRIPT},
    _PARAGRAPHS: {_NTH},
    _NTH: {_SECTIONS, _TITLE, _POSTSCRIPT, _BULLETS},
    _END: {_POSTSCRIPT, _QUOTATION},
    _QUOTATION: {_POSTSCRIPT},
}  # fmt: skip
"""What is never asked for together; either side names the other."""


def compatible(one: str, other: str) -> bool:
    """Whether an answer can obey both, and a sane one would."""
    if one == other or {one, other} & ALONE:
        return False
    return other not in CONFLICTS.get(one, ()) and one not in CONFLICTS.get(other, ())


def random_instructions(rng: random.Random, topic: str) -> tuple[str, list[str], list[dict[str, Any]]]:
    """A prompt about `topic` with 1 to 3 instructions: its text, and the columns that `instructions` reads.

    >>> random_instructions(random.Random(0), "the tides")[1]
    ['startend:quotation', 'keywords:existence']
    """
    chosen: list[str] = []
    wanted = rng.randint(1, 3)
    for name in rng.sample(sorted(WRITERS), len(WRITERS)):
        if len(chosen) < wanted and all(compatible(name, other) for other in chosen):
            chosen.append(name)
    request = f"Is {topic} worth learning about?" if set(chosen) & ALONE else f"Write a few lines about {topic}."
    parts, arguments = [], []
    for name in chosen:
        wording, given = WRITERS[name](rng)
        parts.append(wording)
        arguments.append({**given, "prompt_to_repeat": request} if name == _REPEAT else given)
    return "\n".join([request, *parts]), chosen, arguments
