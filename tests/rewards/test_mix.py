"""The composition: weights, gates, `when`, and what a failure costs."""

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError, InputError, RewardError
from posttrain.rewards.base import BUILTINS, check_columns, check_use, files_of, needed_columns
from posttrain.rewards.mixture.mix import Scorer
from posttrain.types import Score

Make = Callable[..., Any]


def use(name: str, **fields: Any) -> RewardUse:
    return RewardUse(use=name, **fields)


def score(uses: list[RewardUse], items: list[Any], folder: Path, **options: Any) -> list[Score]:
    with Scorer(uses, recipe_dir=folder, **options) as scorer:
        return scorer.score(items)


GOOD = "<think>\n1\n</think>\n\n\\boxed{4}"


def test_a_weighted_sum(item: Make, tmp_path: Path) -> None:
    (result,) = score([use("math", weight=2), use("format", weight=0.5)], [item(GOOD, answer="4")], tmp_path)
    assert (result.value, result.parts, result.status) == (2.5, {"math": 1.0, "format": 1.0}, "ok")


@pytest.mark.parametrize(
    ("text", "value"), [(GOOD, 1.0), ("\\boxed{4}", 0.0), ("<think>\n1\n</think>\n\n\\boxed{5}", 0.0)]
)
def test_a_gate_adds_nothing_and_closes_at_zero(item: Make, tmp_path: Path, text: str, value: float) -> None:
    (result,) = score([use("math"), use("format", gate=True)], [item(text, answer="4")], tmp_path)
    assert (result.value, result.status) == (value, "ok")


def test_a_gate_that_does_not_apply_is_open(item: Make, tmp_path: Path) -> None:
    uses = [use("math"), use("exact", gate=True, when={"task": "text"})]
    assert score(uses, [item("\\boxed{4}", answer="4", task="math")], tmp_path)[0].value == 1.0


def test_a_gate_that_fails_drops_the_sample(item: Make, rewards_file: Path) -> None:
    uses = [use("exact"), use("mine.py:trap", gate=True)]
    (result,) = score(uses, [item("raise", answer="raise")], rewards_file)
    assert (result.value, result.status) == (None, "infra_error")
    assert "my own mistake" in result.detail


def test_only_gates_score_nothing(item: Make, tmp_path: Path) -> None:
    assert score([use("format", gate=True)], [item("x")], tmp_path)[0].status == "not_applicable"


@pytest.mark.parametrize(
    ("when", "applies"),
    [
        ({"task": "math"}, True),
        ({"task": ["code", "math"]}, True),
        ({"task": "code"}, False),
        ({"mode": "think"}, True),
        ({"level": 3, "task": "math"}, True),
        ({"level": 4}, False),
        ({"nothing": "x"}, False),
    ],
)
def test_when(item: Make, tmp_path: Path, when: dict[str, Any], applies: bool) -> None:
    (result,) = score([use("math", when=when)], [item(GOOD, answer="4", task="math", mode="think", level=3)], tmp_path)
    assert result.status == ("ok" if applies else "not_applicable")
    assert result.value == (1.0 if applies else None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [(r"\frac{", r"math: the gold answer '\\frac{' can't be parsed"), (None, "no reward applies")],
)
def test_a_gold_answer_that_cannot_be_parsed_is_named(item: Make, tmp_path: Path, answer: Any, says: str) -> None:
    (result,) = score([use("math"), use("format", gate=True)], [item(GOOD, answer=answer)], tmp_path)
    assert (result.value, result.status, result.detail) == (None, "not_applicable", says)


def test_none_is_not_zero(item: Make, rewards_file: Path) -> None:
    uses = [use("mine.py:optional"), use("format", when={"task": "t"})]
    results = score(uses, [item("x", answer=3), item("x", answer=None), item("x", answer=None, task="t")], rewards_file)
    assert [(r.value, r.status) for r in results] == [(3.0, "ok"), (None, "not_applicable"), (0.0, "ok")]
    assert results[2].parts == {"optional": None, "format": 0.0}


@pytest.mark.parametrize(("fault", "says"), [("exit", "exit code 3"), ("hang", "no answer"), ("raise", "KeyError")])
def test_a_failure_costs_its_own_row(item: Make, rewards_file: Path, fault: str, says: str) -> None:
    texts = ["a"] * 5 + [fault] + ["b"] * 6
    results = score([use("mine.py:trap", timeout=1)], [item(t) for t in texts], rewards_file)
    assert [r.status for r in results] == ["infra_error" if t == fault else "ok" for t in texts]
    assert results[5].value is None
    assert says in results[5].detail


def test_too_many_failures_stop_the_run(item: Make, rewards_file: Path) -> None:
    with pytest.raises(RewardError, match="my own mistake"):
        score([use("mine.py:trap")], [item("raise")] * 6 + [item("x")] * 18, rewards_file)


def test_few_rows_do_not_stop_the_run_unless_all_fail(item: Make, rewards_file: Path) -> None:
    results = score([use("mine.py:trap")], [item("x"), *[item("raise")] * 6], rewards_file)
    assert [r.status for r in results] == ["ok", *["infra_error"] * 6]
    items = [(replace(prompt, id=str(n)), answer) for n, (prompt, answer) in enumerate([item("raise")] * 6)]
    with pytest.raises(RewardError, match="100% of the last 6"):
        score([use("mine.py:trap")], items, rewards_file)


def test_a_file_that_does_not_load_stops_at_once(item: Make, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(prompts, completions): return [1]\nraise RuntimeError('at import')\n")
    with pytest.raises(RewardError, match="at import"):
        score([use("bad.py:f")], [item("x")], tmp_path)


def test_the_wrong_number_of_values_is_a_failure(item: Make, rewards_file: Path) -> None:
    (result,) = score([use("mine.py:short")], [item("x")], rewards_file)
    assert "0 values for 1 completions" in result.detail


def test_conventions(item: Make, rewards_file: Path) -> None:
    uses = [use("mine.py:length"), use("mine.py:slow_sum"), use("mine.py:compute_score"), use("mine.py:sees")]
    one = item("a 4 b", ground_truth="4", data_source="d", extra_info={"k": 1})
    with Scorer(uses, recipe_dir=rewards_file) as scorer:
        (result,) = scorer.score([one], step=7)
    assert result.parts == {"length": 5.0, "slow_sum": 1.0, "compute_score": 1.0, "sees": 15.0}


def test_terms_are_what_counts(item: Make, tmp_path: Path) -> None:
    uses = [use("exact", weight=2.0), use("repetition", weight=0.5), use("format", gate=True)]
    opened, closed = score(uses, [item("<think>\na\n</think>\n\n4", answer="4"), item("4", answer="4")], tmp_path)
    assert opened.terms == {"exact": 1.0, "repetition": 0.0}
    assert opened.value == 2.0
    assert closed.terms == {"exact": 0.0, "repetition": 0.0}
    assert closed.parts["exact"] == 1.0


def test_logged_columns_reach_their_rows(item: Make, rewards_file: Path) -> None:
    with Scorer([use("mine.py:sees", when={"task": "a"})], recipe_dir=rewards_file) as scorer:
        left, right = scorer.score([item("x", task="b"), item("y", task="a")], step=7)
    assert left.logged == {}
    assert right.logged == {"note": "x"}


def test_a_logged_column_of_another_length_is_a_failure(item: Make, rewards_file: Path) -> None:
    (rewards_file / "wide.py").write_text(
        "def wide(completions, log_extra, **columns):\n    log_extra('n', [1, 2])\n    return [1.0]\n"
    )
    (result,) = score([use("wide.py:wide")], [item("x")], rewards_file)
    assert result.status == "infra_error"
    assert "2 values for 1 completions" in result.detail


def test_length_and_end_of_a_completion_are_columns_unless_the_row_has_its_own(item: Make, tmp_path: Path) -> None:
    rule = use("overlong", params={"max_length": 4, "cache": 2})
    prompt, completion = item("x")
    cut = replace(completion, finish_reason="length", token_ids=np.arange(4))
    whole = replace(completion, finish_reason="stop", token_ids=np.arange(2))
    own = replace(prompt, columns={**prompt.columns, "tokens": 2, "finish_reason": "stop"})
    values = [s.value for s in score([rule], [(prompt, cut), (prompt, whole), (own, cut)], tmp_path)]
    assert values == [-1.0, 0.0, 0.0]


def test_logged_metrics_are_means_since_they_were_last_taken(item: Make, rewards_file: Path) -> None:
    with Scorer([use("mine.py:sees"), use("math")], recipe_dir=rewards_file) as scorer:
        assert scorer.take_metrics() == {}
        scorer.score([item("x", answer="1")], step=7)
        assert scorer.take_metrics() == {"seen": 2.5}
        assert scorer.take_metrics() == {}
        scorer.score([item("x", answer="1")], step=7)
        assert scorer.metrics() == {"logged/seen": 2.5}  # beside a stage's own: a reward may log a `loss`
        assert scorer.metrics() == {}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_value_that_is_no_finite_number_is_a_failure_of_its_row(item: Make, rewards_file: Path, value: str) -> None:
    items = [item("x", value="1"), item("x", value=value), item("x", value="2")]
    results = score([use("mine.py:not_finite")], items, rewards_file)
    assert [(r.value, r.status) for r in results] == [(1.0, "ok"), (None, "infra_error"), (2.0, "ok")]
    assert f"gave {value}" in results[1].detail


def test_verl_functions_find_their_gold_in_any_of_three_columns(item: Make, rewards_file: Path) -> None:
    golds: list[dict[str, Any]] = [{"ground_truth": "4"}, {"reward_model": {"ground_truth": "4"}}, {"answer": "4"}]
    items = [item("a 4 b", data_source="d", extra_info={"k": 1}, **gold) for gold in golds]
    check_columns([use("mine.py:compute_score")], [prompt for prompt, _ in items], rewards_file)
    assert [r.value for r in score([use("mine.py:compute_score")], items, rewards_file)] == [1.0] * 3


def test_without_gold_a_verl_function_fails_and_is_no_zero(item: Make, tmp_path: Path) -> None:
    (tmp_path / "v.py").write_text(
        "def f(data_source, solution_str, ground_truth): return solution_str == ground_truth"
    )
    items = [item("x", reward_model={"style": "rule"}), item("x", reward_model=None), item("x", answer="x")]
    results = score([use("v.py:f")], items, tmp_path)
    assert [(r.value, r.status) for r in results] == [(None, "infra_error"), (None, "infra_error"), (1.0, "ok")]
    assert "no `ground_truth`" in results[0].detail
    assert score([use("v.py:f", params={"ground_truth": "x"})], items[:1], tmp_path)[0].value == 1.0


def test_functions_see_the_completion_unless_told(item: Make, rewards_file: Path) -> None:
    uses = [use("mine.py:length"), use("mine.py:length", sees="answer")]
    (result,) = score(uses, [item("<think>\nabc\n</think>\n\nxy")], rewards_file)
    assert result.parts["length#2"] == 2.0
    assert result.parts["length"] == len("<think>\nabc\n</think>\n\nxy")


def test_functions_by_module(item: Make, rewards_file: Path) -> None:
    assert score([use("mine:length")], [item("xyz")], rewards_file)[0].value == 3.0


def test_columns_named_like_parameters_do_no_harm(item: Make, tmp_path: Path) -> None:
    one = item("a b a b a b", n=99, penalty=99, judge="x", completions="x", prompts="x", symbolic="x", answer="4")
    (result,) = score([use("repetition"), use("math")], [one], tmp_path)
    assert result.value == pytest.approx(-0.5)


def test_threads_and_foreign_signal_handlers(item: Make, rewards_file: Path) -> None:
    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGALRM, handler)
    results: list[list[Score]] = []
    try:
        with Scorer([use("math"), use("mine.py:main_thread")], recipe_dir=rewards_file) as scorer:
            items = [item("\\boxed{(x+1)^2}", answer="x^2+2x+1"), item("\\boxed{2}", answer="3")]
            threads = [threading.Thread(target=lambda: results.append(scorer.score(items))) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [[r.value for r in rs] for rs in results] == [[2.0, 1.0]] * 3


def test_an_unknown_name_says_the_closest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mode_following"):
        Scorer([use("mode_folowing")], recipe_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "says"), [("no.py:f", "no file"), ("mine.py:g", "defines no"), ("nowhere.x:f", "no package"),
                       ("regex", "parameter"), ("code", "sandbox")]
)  # fmt: skip
def test_what_can_not_be_found_is_refused(rewards_file: Path, name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Scorer([use(name)], recipe_dir=rewards_file)


@pytest.mark.parametrize("name", ["mine.py:compute_score", "mine:compute_score"])
def test_a_row_without_gold_is_refused_before_a_verl_function_judges_it(
    item: Make, rewards_file: Path, name: str
) -> None:
    prompts = [item("x", answer="1")[0], item("x", reward_model={"style": "rule"}, task="t")[0]]
    with pytest.raises(DataError, match=r"row 2 .*no `ground_truth`, no `reward_model` with one, and no `answer`"):
        check_columns([use(name)], prompts, rewards_file)
    check_columns([use(name, when={"task": ""})], prompts, rewards_file)
    check_columns([use(name, params={"ground_truth": "4"})], prompts, rewards_file)


def test_a_trl_function_that_reads_ground_truth_needs_that_column(item: Make, rewards_file: Path) -> None:
    with pytest.raises(DataError, match="reads the column 'ground_truth'"):
        check_columns([use("mine.py:gold")], [item("x", answer="1")[0]], rewards_file)


LOCAL = {
    "mine.py": "import json\nfrom helpers.text import clean\nimport lone\ndef f(prompts, completions): ...",
    "helpers/__init__.py": "",
    "helpers/text.py": "from . import words\nfrom .deep.er import x\ndef clean(): import late",
    "helpers/words.py": "from helpers import text",  # in a circle
    "helpers/deep/er.py": "x = 1",  # a folder without __init__.py is a package too
    "helpers/unused.py": "",
    "late.py": "import broken",
    "lone.py": "",
    "broken.py": "def (",
    "unused.py": "",
    "pkg/__init__.py": "from pkg.impl import *",
    "pkg/impl.py": "from .. import lone\ndef g(prompts, completions): ...",
}


@pytest.fixture
def local_modules(tmp_path: Path) -> Path:
    """A folder with reward files that import each other."""
    for name, text in LOCAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


IMPORTED = ["mine.py", "helpers/__init__.py", "helpers/text.py", "helpers/words.py", "helpers/deep/er.py", "late.py",
            "lone.py", "broken.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mine.py:f", IMPORTED),
        ("mine:f", IMPORTED),
        ("pkg:g", ["pkg/__init__.py", "pkg/impl.py", "lone.py"]),
        ("pkg.impl:g", ["pkg/__init__.py", "pkg/impl.py", "lone.py"]),
        ("os.path:join", []),
        ("math", []),
    ],
)
def test_the_files_of_a_reward_are_all_that_it_imports_beneath_the_recipe(
    local_modules: Path, name: str, files: list[str]
) -> None:
    found = files_of([name, name], local_modules)
    assert sorted(found) == sorted(local_modules / file for file in files)


def test_a_reward_may_come_into_its_module_by_a_star(local_modules: Path) -> None:
    check_use(use("pkg:g"), local_modules)
    with pytest.raises(InputError, match="defines no 'g'"):
        check_use(use("mine:g"), local_modules)


def test_a_name_that_is_only_used_is_not_defined(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def f(): return [g for g in f()]\nprint(h)\nif f:\n def k(): ...\nq = f\n")
    for name in ("m.py:k", "m.py:q"):
        check_use(use(name), tmp_path)
    for name in ("m.py:g", "m.py:h"):
        with pytest.raises(InputError, match="defines no"):
            check_use(use(name), tmp_path)


def test_a_local_module_with_a_syntax_error_is_refused(local_modules: Path) -> None:
    with pytest.raises(InputError, match=r"broken\.py:1"):
        check_use(use("broken:f"), local_modules)


def test_a_reward_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfdef f(prompts, completions, answer): ...")
    check_use(use("bom.py:f"), tmp_path)
    assert needed_columns(use("bom.py:f"), tmp_path) == ("answer",)


def test_files_of(rewards_file: Path) -> None:
    uses = ["mine.py:length", "math", "mine.py:trap", "os.path:join"]
    assert files_of(uses, rewards_file) == [rewards_file / "mine.py"]


def test_columns_are_checked_before_anything_runs(item: Make, rewards_file: Path) -> None:
    prompts = [item("x", answer="1", task="math")[0], item("x", task="chat")[0]]
    check_columns([use("math", when={"task": "math"})], prompts)
    with pytest.raises(DataError, match=r"row 2 .*'answer'"):
        check_columns([use("math")], prompts)
    with pytest.raises(DataError, match="'answer'"):
        check_columns([use("mine.py:optional")], prompts, rewards_file)


def test_every_builtin_says_what_it_does() -> None:
    for name, builtin in BUILTINS.items():
        assert builtin.doc, name
        assert builtin.function.__doc__, name
