"""Attacks on verifiers, written by someone who knew the libraries and not this code, and honest answers beside them.

In attacks/verifiers.jsonl the completion (text, or {"head", "unit", "times", "tail"}) is wrong, and its row is fine.
"""

from __future__ import annotations

import glob
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.schema import RewardUse
from posttrain.rewards.base import BUILTINS
from posttrain.rewards.mixture.mix import Scorer
from posttrain.sandbox.pool import LocalJudgePool
from posttrain.types import Completion, Prompt, Score

FOLDER = Path(__file__).parent / "attacks"
CANARIES = "/tmp/posttrain_canary_*"


def lines(name: str) -> dict[str, list[dict[str, Any]]]:
    """By reward."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        found[case["reward"]].append(case)
    return found


ATTACKS, CONTROLS = lines("verifiers.jsonl"), lines("controls.jsonl")
SLOW = [(name, True) for name in ("reasoning_gym", "regex", "code", "code_stdio", "math")] + [("code", False)]
"""(reward, whether it is about hanging): attacks that take their whole time limit, and programs."""
CASES = sorted({(name, case["kind"] == "hang") for name, cases in ATTACKS.items() for case in cases})


def text_of(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return completion["head"] + completion["unit"] * completion["times"] + completion["tail"]


def item(case: dict[str, Any]) -> tuple[Prompt, Completion]:
    line = dict(case["line"])
    text, prompt, messages = text_of(line.pop("completion")), line.pop("prompt", "?"), line.pop("messages", None)
    messages = messages or [{"role": "user", "content": prompt}]
    none = np.zeros(0, np.int64)
    return Prompt(id=case["id"], messages=tuple(messages), columns=line), Completion(
        prompt_id=case["id"], index=0, prompt_ids=none, token_ids=none, text=text, sources=np.zeros(0, np.int8),
        logprobs=np.zeros(0, np.float32), versions=none, finish_reason="stop",
    )  # fmt: skip


def is_missed(case: dict[str, Any], score: Score) -> bool:
    if score.status != "ok" or score.value is None:
        return True
    return score.value >= 1 if case["want"] == "<1" else score.value != case["want"]


@pytest.mark.parametrize(
    ("name", "hangs"), [pytest.param(*case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_no_attack_is_paid_excused_or_remembered(name: str, hangs: bool, tmp_path: Path) -> None:
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    judge = LocalJudgePool() if BUILTINS[name].needs == "judge" else None
    missed: list[Any] = []
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in (case for case in ATTACKS[name] if (case["kind"] == "hang") == hangs):
        groups[json.dumps(case["params"])].append(case)
    try:
        for params, cases in groups.items():
            use = RewardUse(use=name, params=json.loads(params))
            controls = [c for c in CONTROLS[name] if json.dumps(c["params"]) == params]
            with Scorer([use], recipe_dir=tmp_path, judge=judge, max_error_rate=1.0) as scorer:
                before = [score.value for score in scorer.score([item(c) for c in controls])]
                for case, score in zip(cases, scorer.score([item(case) for case in cases]), strict=True):
                    if is_missed(case, score):
                        missed.append((case["id"], case["note"], score))
                after = [score.value for score in scorer.score([item(c) for c in controls])]
            assert before == [control["want"] for control in controls]
            assert after == before
    finally:
        if judge is not None:
            judge.close()
    assert missed == []
    assert glob.glob(CANARIES) == []
