"""The rewards that a recipe can name plainly: those that each module declares beside its functions, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from posttrain.rewards import instructions
from posttrain.rewards.contract import BuiltinReward, Case
from posttrain.rewards.environments import reward as environment
from posttrain.rewards.libraries import reasoning_gym
from posttrain.rewards.mathematics import math
from posttrain.rewards.models import checklists, judge, reward_model
from posttrain.rewards.programs import code
from posttrain.rewards.rules import (
    choices,
    format,
    languages,
    lengths,
    modes,
    premises,
    refusals,
    retrieval,
    structured,
    text,
    tools,
)

VERIFIERS: dict[str, BuiltinReward] = {
    "math": BuiltinReward(
        function=math.math,
        columns=("answer",),
        needs="math",
        doc="the last \\boxed equals the column `answer`, as mathematics",
        gold=Case(completion="<think>\n1 / 2\n</think>\n\n\\boxed{0.5}", columns={"answer": r"\frac{1}{2}"}),
        adversarial=Case(completion="\\boxed{4} or \\boxed{5}", columns={"answer": "4"}),
    ),
    "code": BuiltinReward(
        function=code.code,
        columns=("tests",),
        optional=("entry", "hidden_tests"),
        needs="judge",
        doc="the last Python block passes the column `tests` in the sandbox",
        gold=Case(
            completion="```python\ndef double(x):\n    return 2 * x\n```",
            columns={"tests": ["assert double(2) == 4"], "entry": "double", "hidden_tests": ["assert double(3) == 6"]},
        ),
        adversarial=Case(  # it knows the test that the prompt shows
            completion="```python\ndef double(x):\n    return 4\n```",
            columns={"tests": ["assert double(2) == 4"], "entry": "double", "hidden_tests": ["assert double(3) == 6"]},
        ),
    ),
    "code_stdio": BuiltinReward(
        function=code.code_stdio,
        columns=("tests",),
        optional=("hidden_tests", "language"),
        either=("language",),
        needs="judge",
        doc="the same for programs, in other languages too: tests are standard input and output",
        gold=Case(
            completion="```python\nprint(2 * int(input()))\n```",
            columns={"tests": [{"input": "2", "output": "4"}, {"input": "3", "output": "6"}]},
        ),
        adversarial=Case(
            completion="```python\nprint(4, 6)\n```",
            columns={"tests": [{"input": "2", "output": "4"}, {"input": "3", "output": "6"}]},
        ),
    ),
}
"""Mathematics and code."""


def merged(tables: Iterable[Mapping[str, BuiltinReward]]) -> dict[str, BuiltinReward]:
    """All tables as one. Raises ValueError if two rewards have one name."""
    everything: dict[str, BuiltinReward] = {}
    for table in tables:
        for name, reward in table.items():
            if name in everything:
                raise ValueError(f"two rewards are called {name!r}: rename one of them")
            everything[name] = reward
    return everything


_MODULES = (
    format, modes, instructions, text, choices, structured, lengths, languages, tools, retrieval, premises, refusals,
    environment, reasoning_gym, judge, checklists, reward_model,
)  # fmt: skip

BUILTINS: dict[str, BuiltinReward] = merged((VERIFIERS, *(module.REWARDS for module in _MODULES)))
