"""Hand-written responses, and what the filters say to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from posttrain.configs.schema import FilterUse
from posttrain.rewards.mathematics.math import verify
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.filters import bound
from posttrain.types import Completion, Prompt, Score

FOLDER = Path(__file__).parent / "responses"
SETS = ("first", "second", "third")
REPORTED = ("correct", "repetition", "guesswork", "consistent", "language", "similar")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One response, and whether its filter drops it."""

    name: str
    bad: bool
    dropped: bool
    case: dict[str, Any]


@cache
def cases(which: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / f"{which}.yaml").read_text("utf-8")))


def prompt_of(case: dict[str, Any]) -> Prompt:
    columns = {"answer": str(case["a"]), **({"key": case["key"]} if "key" in case else {})}
    messages = ({"role": "user", "content": case["q"]},)
    return Prompt(id="x", messages=messages, mode=case.get("mode", "default"), columns=columns)


def completion_of(case: dict[str, Any]) -> Completion:
    empty = np.zeros(0)
    return Completion(
        prompt_id="x", index=0, prompt_ids=empty.astype(np.int64), token_ids=empty.astype(np.int64),
        text=f"<think>\n{case['t']}\n</think>\n\n{case['s']}", sources=empty.astype(np.int8),
        logprobs=empty.astype(np.float32), versions=empty.astype(np.int32), finish_reason="stop",
    )  # fmt: skip


def held_out(which: str) -> HeldOut:
    items = [
        Prompt(id=str(i), messages=({"role": "user", "content": q},)) for i, q in enumerate(cases(which)["held_out"])
    ]
    return HeldOut([("validation", items), ("sums", [Prompt(id="k", messages=(), columns={"key": "48+17-29"})])])


def score_of(case: dict[str, Any]) -> Score:
    """What the built-in `math` says to the response."""
    return Score(value=float(verify(str(case["a"]), completion_of(case).text) is True))


def verdicts(which: str, name: str) -> Iterator[Verdict]:
    filter_ = bound(FilterUse(use=name), held_out(which))
    for kind in ("bad", "good"):
        for case in cases(which)[name][kind]:
            score = score_of(case) if name == "correct" else Score(value=1.0)
            dropped = filter_(prompt_of(case), completion_of(case), score) is not None
            yield Verdict(name=name, bad=kind == "bad", dropped=dropped, case=case)
