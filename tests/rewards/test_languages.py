"""The language of an answer, scripts within it, and translations against sacrebleu itself."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu

from posttrain.rewards.contract import RowError
from posttrain.rewards.rules.detect import language_of
from posttrain.rewards.rules.languages import chrf, language, language_mixing

TEXTS = {
    "en": "The tide comes in when the moon pulls at the sea.",
    "de": "Die Flut kommt, wenn der Mond am Meer zieht.",
    "fr": "La marée monte quand la lune attire la mer.",
    "es": "La marea sube cuando la luna atrae el mar.",
    "ru": "Прилив наступает, когда луна притягивает море.",
    "zh": "当月亮吸引海水时，潮水就上涨了。",
    "ja": "月が海を引きつけると、潮が満ちてくる。",
    "ko": "달이 바다를 끌어당기면 밀물이 들어온다.",
    "ar": "يأتي المد عندما يجذب القمر البحر.",
    "hi": "जब चंद्रमा समुद्र को खींचता है तब ज्वार आता है।",
    "sw": "Maji kujaa huja wakati mwezi unapovuta bahari.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_the_answer_is_in_the_language_asked_for_or_asked_in(code: str) -> None:
    other = "en" if code != "en" else "de"
    assert language([TEXTS[code]] * 2, [TEXTS[code], TEXTS[other]]) == [1.0, 0.0]
    assert language([TEXTS[other]] * 2, [TEXTS[code], TEXTS[other]], [code] * 2) == [1.0, 0.0]


def test_code_and_formulas_have_no_language() -> None:
    answer = TEXTS["de"] + "\n```python\n" + "for the_number in range(of_all_things): print(the_number)\n" * 20 + "```"
    assert language([TEXTS["de"]], [answer]) == [1.0]
    assert language_of("`the quick brown fox jumps over the lazy dog`") is None


def test_what_is_too_short_is_not_applicable_and_no_answer_is_0() -> None:
    assert language([TEXTS["de"]] * 3, ["42", "<think>\n" + TEXTS["de"], ""]) == [None, 0.0, 0.0]
    assert language(["1+1?"], [TEXTS["de"]]) == [None]


def test_the_thinking_is_judged_if_asked_for() -> None:
    completion = f"<think>\n{TEXTS['en']}\n</think>\n\n{TEXTS['de']}"
    assert language([TEXTS["de"]], [completion]) == [1.0]
    assert language([TEXTS["de"]], [completion], thinking=True) == [0.0]


def test_a_switch_late_in_a_long_answer_is_seen() -> None:
    assert language([TEXTS["de"]], [TEXTS["de"] * 200 + TEXTS["en"] * 1500]) == [0.0]


@pytest.mark.parametrize("reward", [language, language_mixing])
def test_a_language_that_nobody_knows_is_no_zero(reward: Any) -> None:
    assert isinstance(reward([TEXTS["de"]], [TEXTS["de"]], ["qq"])[0], RowError)


def test_mixing_is_the_share_of_foreign_letters() -> None:
    prompt = "Why is the sky blue?"
    values = language_mixing([prompt] * 4, ["abcd", "ab天空", "天空", "12"])
    assert values == [1.0, 0.5, 0.0, None]
    assert language_mixing(["What does 天 mean?"], ["天 is the sky"]) == [1.0]
    assert language_mixing([prompt], ["天空"], ["zh"]) == [1.0]
    assert language_mixing([TEXTS["ja"]], ["テレビを見る"]) == [1.0]


@pytest.mark.parametrize("word_order", [0, 2])
@pytest.mark.parametrize("said", ["The cat sat on the mat.", "A cat is on a mat", "Der Hund", "cat " * 30])
def test_chrf_is_what_sacrebleu_says(said: str, word_order: int) -> None:
    references = ["The cat sat on the mat.", "There is a cat on the mat."]
    wanted = sacrebleu.sentence_chrf(said, references, word_order=word_order).score / 100
    assert chrf([None], [said], [references], word_order=word_order) == [pytest.approx(wanted)]


def test_the_source_said_again_is_no_translation() -> None:
    source, reference = "Das Auto ist in Berlin.", "Das Auto ist in Berlin, sagt man."
    values = chrf([None] * 3, [source, " das auto ist in BERLIN!! ", ""], [reference] * 3, [source] * 3)
    assert values == [0.0, 0.0, 0.0]


def test_a_translation_without_end_is_worth_little() -> None:
    (value,) = chrf([None], ["The sky is blue. " * 6000], ["The sky is blue."])
    assert isinstance(value, float)
    assert value < 0.5


@pytest.mark.parametrize("reference", ["", [], ["a", " "], [3]])
def test_a_reference_that_is_none_is_no_zero(reference: Any) -> None:
    assert isinstance(chrf([None], ["a"], [reference])[0], RowError)
