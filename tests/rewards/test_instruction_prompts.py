"""Random prompts can be obeyed: a writer that knows only the arguments meets every combination that is asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from posttrain.rewards.instructions import instructions, random_instructions

SENTENCES = {
    "en": "The sea is calm and the moon is bright.",
    "de": "Das Meer ist ruhig und der Mond scheint hell.",
    "es": "El mar está en calma y la luna brilla mucho.",
    "fr": "La mer est calme et la lune brille beaucoup.",
    "it": "Il mare è calmo e la luna splende molto.",
    "nl": "De zee is kalm en de maan schijnt helder.",
    "pt": "O mar está calmo e a lua brilha muito.",
}

Asked = Mapping[str, Mapping[str, Any]]


def inline(asked: Asked, sentence: str) -> str:
    """What can stand anywhere: words, letters, marks, and enough sentences."""
    words: list[str] = list(asked.get("keywords:existence", {}).get("keywords", ()))
    repeated = asked.get("keywords:frequency", {})
    words += (
        [repeated["keyword"]] * (repeated["frequency"] if repeated["relation"] == "at least" else 0) if repeated else []
    )
    letters = asked.get("keywords:letter_frequency", {})
    words += [letters["letter"] * letters["let_frequency"]] if letters.get("let_relation") == "at least" else []
    capitals = asked.get("change_case:capital_word_frequency", {})
    words += ["SOS"] * capitals["capital_frequency"] if capitals.get("capital_relation") == "at least" else []
    words += ["[name]"] * asked.get("detectable_content:number_placeholders", {}).get("num_placeholders", 0)
    words += ["*calm*"] * asked.get("detectable_format:number_highlighted_sections", {}).get("num_highlights", 0)
    length = asked.get("length_constraints:number_words", {})
    sentences = asked.get("length_constraints:number_sentences", {})
    times = length["num_words"] // 7 if length.get("relation") == "at least" else 1
    times = sentences["num_sentences"] if sentences.get("relation") == "at least" else times
    return " ".join([*words, *[sentence] * times])


def answer(asked: Asked) -> str:
    """Obeys everything that is asked."""
    if "detectable_format:constrained_response" in asked:
        return "My answer is maybe."
    sentence = SENTENCES[asked.get("language:response_language", {}).get("language", "en")]
    lines = [inline(asked, sentence)]
    if "detectable_format:json_format" in asked:
        return json.dumps({"text": lines[0]}, ensure_ascii=False)
    if "detectable_format:title" in asked:
        lines.insert(0, "<<calm>>")
    lines += ["* calm"] * asked.get("detectable_format:number_bullet_lists", {}).get("num_bullets", 0)
    if sections := asked.get("detectable_format:multiple_sections"):
        lines += [f"{sections['section_spliter']} {n + 1}\n{sentence}" for n in range(sections["num_sections"])]
    text = "\n".join(lines)
    if paragraphs := asked.get("length_constraints:number_paragraphs"):
        text = "\n***\n".join([text] + [sentence] * (paragraphs["num_paragraphs"] - 1))
    if nth := asked.get("length_constraints:nth_paragraph_first_word"):
        parts = [text] + [sentence] * (nth["num_paragraphs"] - 1)
        parts[nth["nth_paragraph"] - 1] = f"{nth['first_word']} {parts[nth['nth_paragraph'] - 1]}"
        text = "\n\n".join(parts)
    if repeat := asked.get("combination:repeat_prompt"):
        text = f"{repeat['prompt_to_repeat']}\n{text}"
    if "combination:two_responses" in asked:
        text += f"\n******\n{sentence} {sentence}"
    if postscript := asked.get("detectable_content:postscript"):
        text += f"\n{postscript['postscript_marker']} {sentence}"
    if end := asked.get("startend:end_checker"):
        text += f"\n{end['end_phrase']}"
    if "startend:quotation" in asked:
        text = f'"{text}"'
    if "change_case:english_capital" in asked:
        text = text.upper()
    return text.lower() if "change_case:english_lowercase" in asked else text


def test_every_random_prompt_can_be_obeyed() -> None:
    pairs = set()
    for seed in range(3000):
        prompt, ids, kwargs = random_instructions(random.Random(seed), "the sea")
        text = answer(dict(zip(ids, kwargs, strict=True)))
        shares = instructions([prompt], [text], [ids], [kwargs], aggregate="fraction")
        assert shares == [1.0], (prompt, text)
        pairs |= {frozenset((a, b)) for a in ids for b in ids if a < b}
    assert len(pairs) > 150
