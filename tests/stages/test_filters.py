"""The six filters against hand-written responses: what is caught, what is spared, and that the docs say so."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import FilterUse
from posttrain.errors import RecipeError
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.filters import FILTERS, bound, check_filter
from posttrain.stages.filters.text_parts import sentences, values
from posttrain.types import Prompt, Score

_spec = importlib.util.spec_from_file_location("filter_sets", Path(__file__).with_name("filter_sets.py"))
assert _spec is not None
assert _spec.loader is not None
sets: Any = importlib.util.module_from_spec(_spec)
sys.modules["filter_sets"] = sets
_spec.loader.exec_module(sets)

DOCS = Path(__file__).resolve().parents[2] / "docs/results/data.md"


def counted(which: str, name: str) -> tuple[int, int, int, int]:
    """Bad ones dropped, bad ones, good ones dropped, good ones."""
    verdicts = list(sets.verdicts(which, name))
    bad, good = ([v.dropped for v in verdicts if v.bad is kind] for kind in (True, False))
    return sum(bad), len(bad), sum(good), len(good)


@pytest.mark.parametrize("which", sets.SETS)
@pytest.mark.parametrize("name", sets.REPORTED)
def test_bad_responses_are_dropped_and_their_good_neighbours_are_not(which: str, name: str) -> None:
    dropped, bad, lost, good = counted(which, name)
    assert bad >= 10
    assert good >= 10
    assert dropped / bad >= 0.9
    assert lost / good <= 0.05


@pytest.mark.parametrize("which", ["first", "second"])
def test_the_checklist_drops_bad_answers_and_spares_their_good_neighbours(which: str) -> None:
    dropped, bad, lost, good = counted(which, "checklist")
    assert min(bad, good) >= 10
    assert dropped / bad >= 0.9
    assert lost / good <= 0.1


def test_the_docs_table_is_what_the_filters_do() -> None:
    table = {
        match[1]: tuple(int(n) for n in match.groups()[1:])
        for match in re.finditer(
            r"^\| `(\w+)` \|" + r" (\d+) of (\d+), (\d+) of (\d+) \|" * 3 + "$", DOCS.read_text(), re.M
        )
    }
    for name in sets.REPORTED:
        assert table[name] == tuple(n for which in sets.SETS for n in counted(which, name)), name


def ask(name: str, thinking: str, answer: str, question: str = "?", mode: Any = "default", **params: Any) -> str | None:
    use = FilterUse.model_validate({"use": name, **params})
    case = {"t": thinking, "s": answer}
    prompt = Prompt(id="x", messages=({"role": "user", "content": question},), mode=mode)
    return bound(use, HeldOut())(prompt, sets.completion_of(case), Score(value=1.0))


def test_a_parameter_moves_the_line() -> None:
    text = "we add the first two numbers and then we add the first two numbers again to see " * 2
    shares = [ask("repetition", text, "4", at_most=at_most) for at_most in (0.0, 0.3, 0.9)]
    assert shares == ["repetition", "repetition", None]


@pytest.mark.parametrize("seed", range(5))
def test_text_without_any_repetition_is_never_called_repetitive(seed: int) -> None:
    rng = random.Random(seed)
    words = [f"{rng.choice('abcdefgh')}{i}" for i in range(400)]
    rng.shuffle(words)
    assert ask("repetition", " ".join(words), "done") is None


@pytest.mark.parametrize("times", [8, 20, 100])
@pytest.mark.parametrize("loop", ["so it is. ", "maybe we should look at the other side of it, ", "no, wait\n"])
def test_a_loop_at_the_end_is_found_however_long_it_is(loop: str, times: int) -> None:
    start = " ".join(f"word{i}" for i in range(30))
    assert ask("repetition", f"{start}. {loop * times}", "4") == "repetition"


def test_code_may_repeat_itself() -> None:
    assert ask("repetition", "Twenty asserts.", "```python\n" + "assert f(1) == 1\n" * 20 + "```") is None


@pytest.mark.parametrize(
    ("written", "again"), [("1/2", "0.5"), ("0.5", "50\\%"), ("1,200", "1200"), ("\\frac{3}{4}", "0.75")]
)
def test_one_value_in_two_forms_is_consistent_both_ways(written: str, again: str) -> None:
    for thought, said in ((written, again), (again, written)):
        assert ask("consistent", f"We compute. The answer is {thought}.", f"\\boxed{{{said}}}") is None


@pytest.mark.parametrize("answer", [7, 12, 345])
def test_another_number_than_the_conclusion_is_inconsistent(answer: int) -> None:
    assert ask("consistent", f"So the answer is {answer}.", f"\\boxed{{{answer + 1}}}") == "inconsistent summary"
    assert ask("consistent", f"So the answer is {answer}.", f"\\boxed{{{answer}}}") is None


@pytest.mark.parametrize("mode", ["no_think", "closed"])
def test_nobody_has_to_reason_who_was_told_not_to(mode: str) -> None:
    assert ask("guesswork", "", "4", mode=mode) is None
    assert ask("guesswork", "", "4", mode="think") == "no reasoning"


def test_empty_and_strange_responses_make_no_filter_fail() -> None:
    for name in set(FILTERS) - {"similar"}:
        for text in (
            "",
            "\0",
            "�",
            "\ud83d",
            "}" * 50,
            "\\boxed{",
            "1/0",
            "9" * 5000,
            "=" * 300,
            "(" * 300,
            "a" * 20_000,
        ):
            ask(name, text, text)
            ask(name, "", text)


def test_filters_take_time_in_proportion_to_the_text() -> None:
    import time

    text = "The sum of these numbers is what we want to know, so we add 12 and 30 first. " * 400
    for name in ("repetition", "guesswork", "consistent", "language"):
        started = time.perf_counter()
        ask(name, text, "\\boxed{42}")
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ({"use": "repetitoin"}, "did you mean `repetition`"),
        ({"use": "repetition", "at_mst": 0.3}, "no parameter 'at_mst'; did you mean `at_most`"),
        ({"use": "repetition", "at_most": 2}, "at_most: input should be less than or equal to 1, not 2"),
        ({"use": "repetition", "ngram": "four"}, "ngram: input should be a valid integer"),
        ({"use": "complete", "x": 1}, "no parameter 'x'; it has none"),
        ({"use": "similar", "held_out": []}, "no parameter 'held_out'"),
    ],
)
def test_a_wrong_filter_is_refused_with_what_is_wrong(use: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        check_filter(FilterUse.model_validate(use))


def test_numbers_are_values_whatever_their_form() -> None:
    assert values("1,200 = 1200 = twelve hundred") >= {1200, 12}
    assert values("\\frac{1}{2} 50% 0.5") >= values("1/2")
    assert values("1/0") == {0, 1}
    assert values("v2 x3 no2") == set()


def test_sentences_end_where_they_end() -> None:
    assert sentences("It is 3.5. Is it? 是的。好") == ["It is 3.5.", "Is it?", "是的。", "好"]
