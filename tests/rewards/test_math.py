"""The verifier: what is equal, what isn't, and what must not hurt."""

import time

import pytest

from posttrain.rewards.contract import RowError
from posttrain.rewards.mathematics.arithmetic import TooLarge, Unreadable, evaluate
from posttrain.rewards.mathematics.math import Symbolic, is_safe, math, same, verify
from posttrain.sandbox.confined import ConfinedService
from posttrain.sandbox.confined.service import Service


@pytest.fixture(scope="module")
def symbolic() -> Symbolic:
    return Symbolic()


EQUAL = [
    ("42", "42"), ("007", "7"), ("15", "15."), (r"\frac{1}{2}", r"\dfrac12"), ("1/2", "½"), ("1.5e-3", "0.0015"),
    ("1000000", "1,000,000"), ("1000", "1{,}000"), ("2^{10}", "1024"), ("x=5", "5"), ("5", "x = 5"),
    (r"1\frac{1}{2}", r"\frac{3}{2}"), (r"-1\frac{1}{2}", "-1.5"), ("1 1/2", "1½"), ("5", r"5\text{ cm}"),
    ("5 cm", "5 centimeters"), ("18", r"\text{USD }18"), (r"\$5", "5"), (r"25\%", "25"), (r"25\%", "0.25"),
    ("60", r"60^\circ"), ("12:30", "12:30"), (r"10\text{ and }20", "10, 20"), ("1,2", "2,1"), (r"\pm 3", "3, -3"),
    ("(0,1]", "(0, 1]"), (r"(-\infty, 2)", "x<2"), (r"[1,3)", r"1 \le x < 3"), (r"[1,2]\cup[2,3]", "[1,3]"),
    ("(1,2)", r"\left(1,2\right)"), (r"\{1,2,3\}", r"\{3,2,1\}"), (r"\{1,2\}", r"\{1,1,2\}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}"),
    ("B", r"\text{(B)}"), (r"\text{Yes}", "yes"), (r"\pi", "π"), ("f(x)=x^2", "x^2"), ("10!", "3628800"),
]  # fmt: skip
DIFFERENT = [
    (r"-\frac{2}{3}", r"\frac{2}{3}"), (r"\pi", "3.14"), ("e", "2.718281828"), (r"\frac{1}{3}", "0.33"),
    ("25", "0.25"), ("1000000", "1000001"), ("1,5", "1.5"), ("(1,2)", "(1,2,3)"), ("(1,2)", "(2,1)"),
    ("(0,1]", "(0,1)"),
    (r"\{1,2\}", r"\{1,2,3\}"), ("101_2", "5"), (r"-\infty", r"\infty"), ("B", "A"), (r"\text{Yes}", "No"),
    ("42", "x"), (r"\text{True}", "1=1"), ("x>2", "x>3"), ("5 cm", "5 m"), ("2", "2xy"), ("2", r"2\text{x}"),
    (r"\frac{12}{3}", r"\frac{1}{23}"), ("12", "1 2"), ("5", ""), ("5", r"\text{}"), ("5", "5=5"),
    ("1", "9^{9^{9^9}}"), ("1", "((((9!)!)!)!)"), ("1", "(" * 5000 + "1" + ")" * 5000), ("1", "1" * 200_000),
    ("1", r"\def\x{\x\x}\x"), ("1", "__import__('os').system('true')"), ("1", "x^^^^2"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_without_algebra(gold: str, answer: str) -> None:
    assert same(gold, answer) is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(symbolic: Symbolic, gold: str, answer: str) -> None:
    started = time.monotonic()
    assert same(gold, answer, symbolic) is False
    assert time.monotonic() - started < 60  # the first one starts the process


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2+2x+1", "(x+1)^2"),
        ("2", r"\log_{2} 4"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        ("e^{i\\pi}", "-1"),
        ("y=2x+1", "1+2x"),
    ],
)
def test_equal_by_algebra(symbolic: Symbolic, gold: str, answer: str) -> None:
    assert same(gold, answer, symbolic) is True
    assert same(gold, answer + "+1", symbolic) is False


def test_a_product_is_no_unit(symbolic: Symbolic) -> None:
    assert same("2", "2ab", symbolic) is False


def test_what_never_ends_is_wrong_in_time(symbolic: Symbolic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.rewards.mathematics.math.DEADLINE_S", 0.5)
    monkeypatch.setattr("posttrain.rewards.mathematics.math.is_safe", lambda text: True)
    symbolic.same("2", "1+1")
    started = time.monotonic()
    assert same("x", "(x+y+z+w+v+1)^{60}*(x+y+z)^{80}-\\sqrt[7]{x+y}^{99}", symbolic) is False
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "broken",
    [
        Service(module="posttrain.rewards.mathematics.math", attribute="NoSuchParser"),  # can't be loaded
        Service(module="types", attribute="SimpleNamespace"),  # fails at every call
    ],
)
def test_a_parser_that_fails_is_an_error_and_no_zero(broken: Service) -> None:
    with ConfinedService(broken) as rooms:
        assert isinstance(verify("x^2+1", r"\boxed{y^2+1}", Symbolic(rooms)), RowError)


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        (r"so \boxed{7}", True),
        (r"\boxed{3}, no: \boxed{7}", True),
        (r"\boxed{7}, no: \boxed{3}", False),
        (r"\boxed{\boxed{7}}", True),
        (r"\boxed{7", False),
        ("The answer is 7.", False),
        (r"<think>\boxed{7}</think> I don't know.", False),
        (r"<think>hm</think> \boxed{7}", True),
        (r"\boxed{\text{The answer is }7}", True),
        (r"\boxed{7}</s><|im_end|>", True),
    ],
)
def test_where_the_answer_stands(text: str, correct: bool) -> None:
    assert verify("7", text) is correct


def test_boxes_without_end_take_linear_time() -> None:
    started = time.monotonic()
    assert verify("7", r"\boxed{" * 100_000) is False
    assert verify("7", r"\boxed{" + "a" * 1_000_000 + "}") is False
    assert time.monotonic() - started < 2


def test_a_gold_that_says_nothing_is_not_applicable() -> None:
    assert math([None] * 2, [r"\boxed{1}"] * 2, [None, ""]) == [None, None]


def test_arithmetic_is_bounded() -> None:
    assert evaluate("2^{10}+1,000") == 2024
    for huge in ("10^{10^{10}}", "1000!", "9" * 5000, "2^{2^{2^{2^{2}}}}"):
        with pytest.raises(TooLarge):
            evaluate(huge)
    for other in ("x", "1/0", "1 2", "", "2^", r"\sqrt{2}"):
        with pytest.raises(Unreadable):
            evaluate(other)


def test_guards() -> None:
    assert is_safe(r"\frac{x^2}{y} + \sin x")
    assert not any(map(is_safe, (r"\input{x}", "x" * 5000, r"\sum_{k=1}^{10^{12}} k^{k}", "(x+1)^{500}", "a.__b__")))


def test_plain_answers_are_fast() -> None:
    golds, answers = (
        ["42", r"\frac{1}{2}", "(1,2)"] * 1000,
        [r"is \boxed{42}", r"\boxed{0.5}", r"\boxed{(1, 3)}"] * 1000,
    )
    started = time.process_time()
    assert math([None] * 3000, answers, golds)[:3] == [1.0, 1.0, 0.0]
    assert 3000 / (time.process_time() - started) > 5000
