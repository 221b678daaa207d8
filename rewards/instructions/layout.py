"""Instructions on what an answer looks like and is made of (IFEval, arXiv 2311.07911, Table 1: detectable format,
detectable content, combination, start with and end with)."""

from __future__ import annotations

import json
import re

from posttrain.rewards.instructions.checker import Checker, count, text

_BULLET = re.compile(r"^[ \t]*[*-][ \t][^\n]*\w", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*(?=\S)[^\n*]+(?<=\S)\*\*|\*(?=\S)[^\n*]+(?<=\S)\*")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]*\w[^\[\]\n]*\]")
_TITLE = re.compile(r"<<[^\n<>]+>>")
_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n|\n[ \t]*```\Z", re.IGNORECASE)
_OPTIONS = ("my answer is yes.", "my answer is no.", "my answer is maybe.")
_QUOTES = (('"', '"'), ("“", "”"))


def bullets(answer: str, num_bullets: int) -> bool:
    """Exactly so many bullet points: lines that start with a star or a dash and a blank, and say something."""
    return len(_BULLET.findall(answer)) == num_bullets


def constrained(answer: str) -> bool:
    """One of the three options, in its words. Ours: naming more than one of them is no answer."""
    return sum(option in answer.lower() for option in _OPTIONS) == 1


def highlights(answer: str, num_highlights: int) -> bool:
    """At least so many parts between single or double stars, as Markdown reads them."""
    return len(_HIGHLIGHT.findall(answer)) >= num_highlights


def sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many numbered headings (`SECTION 1`), each at a line's start. Ours: each number counts once."""
    heading = rf"^[ \t#*_]{{0,16}}{re.escape(section_spliter.strip())}[ \t]{{0,4}}(\d{{1,4}})\b"
    return len(set(re.findall(heading, answer, re.MULTILINE))) >= num_sections


def is_json(answer: str) -> bool:
    """All of it is an object or a list of JSON, fenced or not."""
    try:
        return isinstance(json.loads(_FENCE.sub("", answer.strip())), dict | list)
    except (ValueError, RecursionError):  # the model's JSON, not ours
        return False


def title(answer: str) -> bool:
    """A title in double angular brackets."""
    return any(mark[2:-2].strip() for mark in _TITLE.findall(answer))


def placeholders(answer: str, num_placeholders: int) -> bool:
    """At least so many placeholders in square brackets."""
    return len(_PLACEHOLDER.findall(answer)) >= num_placeholders


def postscript(answer: str, postscript_marker: str) -> bool:
    """A line that starts with the marker and goes on; blanks in `P. S.` don't count."""
    marker = "".join(postscript_marker.split()).casefold()
    lines = ("".join(line.split()).casefold().lstrip("*_") for line in answer.split("\n"))
    return any(line.startswith(marker) and re.search(r"\w", line[len(marker) :]) for line in lines)


def two_responses(answer: str) -> bool:
    """Exactly two different answers, parted by six stars."""
    parts = [part.strip() for part in answer.split("******") if part.strip()]
    return len(parts) == 2 and parts[0] != parts[1] and all(re.search(r"\w", part) for part in parts)


def repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
    """It starts with the request, word for word. Ours: and goes on."""
    said, wanted = (" ".join(t.split()).casefold() for t in (answer, prompt_to_repeat))
    return said.startswith(wanted) and re.search(r"\w", said[len(wanted) :]) is not None


def ends_with(answer: str, end_phrase: str) -> bool:
    """It ends with exactly this phrase; quotation marks around the answer aside."""
    return answer.strip().strip('"').rstrip().casefold().endswith(end_phrase.strip().casefold())


def quotation(answer: str) -> bool:
    """All of it stands between double quotation marks."""
    said = answer.strip()
    return len(said) > 2 and any(said.startswith(left) and said.endswith(right) for left, right in _QUOTES)


CHECKERS: dict[str, Checker] = {
    "detectable_content:number_placeholders": Checker(holds=placeholders, arguments={"num_placeholders": count}),
    "detectable_content:postscript": Checker(holds=postscript, arguments={"postscript_marker": text}),
    "detectable_format:number_bullet_lists": Checker(holds=bullets, arguments={"num_bullets": count}),
    "detectable_format:constrained_response": Checker(holds=constrained),
    "detectable_format:number_highlighted_sections": Checker(holds=highlights, arguments={"num_highlights": count}),
    "detectable_format:multiple_sections": Checker(
        holds=sections, arguments={"section_spliter": text, "num_sections": count}
    ),
    "detectable_format:json_format": Checker(holds=is_json),
    "detectable_format:title": Checker(holds=title),
    "combination:two_responses": Checker(holds=two_responses),
    "combination:repeat_prompt": Checker(holds=repeat_prompt, arguments={"prompt_to_repeat": text}),
    "startend:end_checker": Checker(holds=ends_with, arguments={"end_phrase": text}),
    "startend:quotation": Checker(holds=quotation),
}
