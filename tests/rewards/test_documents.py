"""Answers from documents, keywords, and questions that assume what isn't so: what pays, and what only repeats."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.rewards.contract import RowError
from posttrain.rewards.rules.copies import without_copies
from posttrain.rewards.rules.premises import false_premise
from posttrain.rewards.rules.retrieval import citations, grounded
from posttrain.rewards.rules.text import contains

LIST = "Write a poem with these words: amber, breeze, cliff, dawn, ember, frost, grove, haze."
DOCUMENTS = "[1] Oslo is in Norway. [2] Bern is in Switzerland. [3] " + "Nobody lives on the moon at all. " * 12


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("The amber dawn met a breeze.", 2 / 3),
        (LIST, 0.0),
        ("'" + LIST.upper() + "' - sure!", 0.0),
        ("amber / breeze / cliff / dawn / ember / frost / grove / haze", 0.0),
        ("Sure: " + LIST + " The dawn is here.", 1 / 3),
    ],
)
def test_saying_the_prompt_again_holds_no_keywords(answer: str, share: float) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": LIST}]
    assert contains([messages], [answer], [["amber", "dawn", "cliff"]]) == [pytest.approx(share)]


def test_copies_count_where_a_recipe_wants_them() -> None:
    assert contains([LIST], [LIST], [["amber"]], count_copies=True) == [1.0]


def test_an_assistants_turn_may_be_said_again() -> None:
    turns = [{"role": "assistant", "content": LIST}, {"role": "user", "content": "Once more."}]
    assert contains([turns], [LIST], ["amber"]) == [1.0]


def test_a_short_turn_said_again_is_a_copy_and_part_of_it_is_none() -> None:
    assert contains(["Name a big cat."] * 2, ["Name a big cat!", "A big cat"], ["cat"] * 2) == [0.0, 1.0]


def test_seven_words_in_a_row_are_no_copy() -> None:
    seven = "with these words: amber, breeze, cliff, dawn"
    assert without_copies(seven, LIST) == seven
    assert "cliff" not in without_copies("poem " + seven, LIST)


@pytest.mark.parametrize("keywords", [["a", ""], [3], [" "]])
def test_keywords_that_are_none_are_no_zero(keywords: Any) -> None:
    assert isinstance(contains([""], ["a"], [keywords])[0], RowError)


@pytest.mark.parametrize(
    ("answer", "required", "forbidden", "value"),
    [
        ("It is Oslo.", ["Oslo"], ["Bern"], 1.0),
        ("It is Oslo, not Bern.", ["Oslo"], ["Bern"], 0.0),
        ("It is Oslos.", ["Oslo"], None, 0.0),
        ("In the USA", [["United States", "USA"]], None, 1.0),
        ("Nothing", [], ["Bern"], 1.0),
        ("", [], ["Bern"], 0.0),
        ("Nobody lives on the moon at all.", ["moon"], None, 1.0),
        (DOCUMENTS, ["moon"], None, 0.0),
    ],
)
def test_grounded(answer: str, required: Any, forbidden: Any, value: float) -> None:
    assert grounded([DOCUMENTS], [answer], [required], [forbidden]) == [value]


def test_a_share_of_what_is_required_and_nothing_with_what_is_forbidden() -> None:
    assert grounded([""], ["Oslo"], [["Oslo", "Norway"]], [["Bern"]], credit="fraction") == [0.5]
    assert grounded([""], ["Oslo Bern"], [["Oslo", "Norway"]], [["Bern"]], credit="fraction") == [0.0]


@pytest.mark.parametrize(
    ("answer", "supporting", "value"),
    [
        ("Oslo is in Norway [1].", [1], 1.0),
        ("Oslo is in Norway [1], Bern isn't [2; 1].", [1, 2], 1.0),
        ("Oslo is in Norway [1, 2].", [1], 2 / 3),
        ("Oslo is in Norway [1][2][3].", [1], 0.5),
        ("Oslo is in Norway.", [1], 0.0),
        ("Oslo is in Norway [1][9].", [1], 0.0),
        ("[1]", [1], 0.0),
        ("The documents don't say.", [], 1.0),
        ("The documents don't say [2].", [], 0.0),
        ("", [], 0.0),
    ],
)
def test_citations(answer: str, supporting: Any, value: float) -> None:
    assert citations([DOCUMENTS], [answer], [supporting]) == [pytest.approx(value)]
    assert citations([""], [answer], [supporting], [3]) == [pytest.approx(value)]


@pytest.mark.parametrize(("supporting", "documents"), [("x", None), ([4], [1, 2]), ([1], "x"), (3, None), ([1], 2**40)])
def test_citations_that_can_not_be_checked_are_no_zero(supporting: Any, documents: Any) -> None:
    assert isinstance(citations([""], ["a b c [1]"], [supporting], [documents])[0], RowError)


QUESTION = "Why did Apollo 11 land in 1975, which many say is wrong?"
REJECTIONS = [
    "That is a misconception: it was 1969.",
    "The premise of this question is false. The year was 1969.",
    "It isn't true that it was then; 1969 is right.",
    "No, 1969.",
    "It did not land in 1975, but in 1969.",
    "It landed in 1969, not 1975.",
]
ANSWERS = [
    "Because the schedule of 1969 slipped.",
    "It is not a coincidence that it landed in 1969.",
    "The crew of 1969 did not sleep before the landing.",
    "This is not wrong: it followed 1969.",
    "It is not a misconception: it followed 1969.",
    QUESTION + " 1969",
]


@pytest.mark.parametrize("answer", REJECTIONS)
def test_a_rejection_pays_only_where_the_premise_is_false(answer: str) -> None:
    columns: dict[str, Any] = {"corrects": [["1969"]], "assumes": [["1975"]]}
    assert false_premise([QUESTION], [answer], [False], **columns) == [1.0]
    assert false_premise([QUESTION], [answer], [True], **columns) == [0.0]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_goes_along_pays_only_where_the_premise_is_true(answer: str) -> None:
    columns: dict[str, Any] = {"corrects": [["1969"]], "assumes": [["1975"]]}
    assert false_premise([QUESTION], [answer], ["false"], **columns) == [0.0]
    assert false_premise([QUESTION], [answer], ["true"], **columns) == [1.0]


def test_a_rejection_without_the_correction_does_not_pay() -> None:
    assert false_premise([QUESTION], ["That is a misconception."], [False], [["1969"]]) == [0.0]
    assert false_premise([QUESTION], ["That is a misconception."], [False]) == [1.0]


def test_no_answer_is_right_neither_way() -> None:
    assert false_premise([QUESTION] * 2, [""] * 2, [True, False]) == [0.0, 0.0]


def test_other_markers_can_be_given() -> None:
    assert false_premise([QUESTION], ["C'est faux."], [False], markers=["c'est faux"]) == [1.0]


def test_a_premise_that_is_neither_is_no_zero() -> None:
    assert isinstance(false_premise([QUESTION], ["a"], ["maybe"])[0], RowError)
