"""The 25 verifiable instructions: each is met by what obeys it, and by nothing that doesn't."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import DataError
from posttrain.rewards.contract import RowError
from posttrain.rewards.instructions import CHECKERS, instructions, random_instructions
from posttrain.rewards.instructions.generate import ALONE, CONFLICTS, WRITERS, compatible
from posttrain.rewards.instructions.lengths import sentences

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["tide", "moon"]}, ["Tides follow the Moon."], ["The tide.", "t i d e moon"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, ["Sea, sea"], ["sea", "se a"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, ["sea"], ["sea sea", "Seasea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["very"]}, ["everyone"], ["Very good", "a very, very"]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, ["Qq"], ["q"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["# a"]),
    (
        "language:response_language",
        {"language": "de"},
        ["Der Mond zieht das Meer an, und so entstehen Ebbe und Flut.", "Ja."],
        ["The moon pulls the sea, and so the tides come and go.", "Да."],
    ),
    (
        "language:response_language",
        {"language": "zh"},
        ["月亮吸引海水，于是有了潮汐。"],
        ["Die Flut kommt bald.", "Tides"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["Ay. B is 3.5."],
        ["Dr. Who."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["One"], ["One. Two!"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["a b c"], ["a b", "... a - b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["a b"], ["a b c"]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n ***\nb\n***"],
        ["a\n\nb", "a\n***\n\n***\nb", "a *** b", "a\n***\nb\n***\nc"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "moon"},
        ["a\n\n**Moon** b", 'a\n \n\n"moon," b'],
        ["moon\n\na", "a\n\nmoon\n\nb", "a\n\nmoons", "a\nmoon"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b c]"], ["[a]", "[] [ ]", "[[a]"]),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["a\nP.S. b", "a\np. s. b"],
        ["a P.S. b", "a\nP.S."],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n- **b**"],
        ["* a", "- a\n- b\n- c", "---\n* a"],
    ),
    ("detectable_format:constrained_response", {}, ["My answer is no."], ["no", "My answer is yes. My answer is no."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* **b**"],
        ["*a*", "** **", "* a\n* b"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        ["PART 1\na\n## PART 2\nb"],
        ["PART 1\na\nPART 1\nb", "see PART 1 and PART 2"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```"], ["a", '{"a": 1} ok', '"a"', "[" * 9999]),
    ("detectable_format:title", {}, ["<<a>>\nb"], ["<< >>", "<a>", "<<a\nb>>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a\n******\na", "a", "a******b******c", "******a"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Sing  a song."}, ["sing a song. La"], ["Sing a song.", "La"]),
    ("startend:end_checker", {"end_phrase": "The end."}, ["a the end.", '"a The end."'], ["The end. a", "The end"]),
    ("startend:quotation", {}, ['"a"', "“a”"], ['"a', 'a "b"', '""']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["A IN"],
        ["A In"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["In"], ["IN 1"]),
    (
        "change_case:english_capital",
        {},
        ["THE TIDE COMES AND GOES WITH THE MOON."],
        ["THE TIDE Comes", "123", "ПРИВЕТ"],
    ),
    ("change_case:english_lowercase", {}, ["the tide comes and goes with the moon."], ["The tide", "123", "привет"]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b", "a，b"]),
]


def score(answer: str, ids: Any, kwargs: Any, **params: Any) -> float | RowError | None:
    return instructions([None], [answer], [ids], [kwargs], **params)[0]


@pytest.mark.parametrize(("name", "given", "obedient", "others"), CASES)
def test_an_instruction_is_met_by_what_obeys_it_alone(
    name: str, given: dict[str, Any], obedient: list[str], others: list[str]
) -> None:
    for answer in obedient:
        assert score(answer, [name], [given]) == 1.0, answer
    for answer in [*others, "", " \n"]:
        assert score(answer, [name], [given]) == 0.0, answer


def test_there_are_cases_and_wordings_for_all_25() -> None:
    assert {name for name, *_ in CASES} == set(CHECKERS) == set(WRITERS)
    assert len(CHECKERS) == 25


TEXT = st.text(alphabet='aB .,*#\n"<>[]{}-1PS火', max_size=60)


@pytest.mark.parametrize(("name", "given_arguments", "obedient", "others"), CASES)
@given(noise=TEXT)
def test_what_is_strictly_right_is_loosely_right(
    name: str, given_arguments: dict[str, Any], obedient: list[str], others: list[str], noise: str
) -> None:
    for answer in (noise, obedient[0] + noise):
        strict, loose = (score(answer, [name], [given_arguments], mode=mode) for mode in ("strict", "loose"))
        assert isinstance(strict, float)
        assert isinstance(loose, float)
        assert loose >= strict


@pytest.mark.parametrize("answer", ["Sure, here it is:\nTHE END OF IT IS NEAR.", "**THE END OF IT IS NEAR.**\nEnjoy!"])
def test_loose_forgives_what_stands_around_the_answer(answer: str) -> None:
    row: tuple[Any, Any] = (["change_case:english_capital"], [{}])
    assert (score(answer, *row), score(answer, *row, mode="loose")) == (0.0, 1.0)


def test_all_must_be_obeyed_unless_the_share_is_asked_for() -> None:
    ids, kwargs = ["punctuation:no_comma", "startend:quotation"], [{}, None]
    assert score("no comma", ids, kwargs) == 0.0
    assert score("no comma", ids, kwargs, aggregate="fraction") == 0.5
    assert score("no comma", json.dumps(ids), json.dumps(kwargs), aggregate="fraction") == 0.5


def test_absent_arguments_may_be_there_as_none_and_numbers_as_floats() -> None:
    given = {"num_bullets": 1.0, "keywords": None, "relation": None}
    assert score("* a", ["detectable_format:number_bullet_lists"], [given]) == 1.0


@pytest.mark.parametrize(
    ("ids", "kwargs", "says"),
    [
        (["keywords:existance"], [{}], "did you mean 'keywords:existence'"),
        (["keywords:existence"], [{}], "`keywords`: it should be a list"),
        (["keywords:existence"], [], "1 instructions .* 0 objects"),
        (["keywords:frequency"], [{"keyword": "a", "frequency": 1, "relation": "around"}], "`relation`"),
        (["length_constraints:number_paragraphs"], [{"num_paragraphs": True}], "whole number"),
        (["language:response_language"], [{"language": "qq"}], "no detector"),
        ("no json", [{}], "no JSON"),
        (["punctuation:no_comma"], ["x"], "object"),
    ],
)
def test_a_malformed_row_is_no_zero_and_refused_before_a_run(ids: Any, kwargs: Any, says: str) -> None:
    from posttrain.configs.schema import RewardUse
    from posttrain.rewards.base import check_columns
    from posttrain.types import Prompt

    assert isinstance(score("a", ids, kwargs), RowError)
    row = Prompt(id="p", messages=(), columns={"instruction_id_list": ids, "kwargs": kwargs})
    with pytest.raises(DataError, match=says):
        check_columns([RewardUse(use="instructions")], [row])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Smith, e.g. the one of J. K. Rowling Ltd. and 3.14, came at 5 p.m. today.", 1),
        ("Wait... what?! No.", 3),
        ("1. First thing\n\n2. Second thing", 2),
        ("你好。世界！", 2),
        ("A title\n\nA line without a stop", 2),
        ("see www.example.org/a.b for more", 1),
        ("", 0),
    ],
)
def test_sentences_are_counted_without_a_model(text: str, number: int) -> None:
    assert len(sentences(text)) == number


def test_random_prompts_ask_for_instructions_that_go_together_and_can_be_judged() -> None:
    seen = set()
    for seed in range(400):
        prompt, ids, kwargs = random_instructions(random.Random(seed), "the tides")
        seen |= set(ids)
        assert 1 <= len(ids) <= 3
        assert all(compatible(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :])
        assert prompt.count("\n") == len(ids)
        assert score("x", ids, kwargs) in (0.0, 1.0)
        assert (prompt, ids, kwargs) == random_instructions(random.Random(seed), "the tides")
    assert seen == set(WRITERS)


def test_the_table_of_conflicts_names_instructions_and_holds_both_ways() -> None:
    assert set(CONFLICTS) | set().union(*CONFLICTS.values()) | ALONE <= set(WRITERS)
    assert not compatible("change_case:english_capital", "change_case:english_lowercase")
    assert not compatible("change_case:english_lowercase", "change_case:english_capital")
    assert not compatible("punctuation:no_comma", "punctuation:no_comma")
