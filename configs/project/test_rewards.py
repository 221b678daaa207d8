"""Tests of this project's rewards: run `pytest` here. A reward that can be fooled will be.

The command tries one on a line as the run would:

    $ echo '{"id": 1, "prompt": "What is 20+7-12?", "completion": "<think>\\n20+7=27\\n27-12=15\\n</think>\\n\\n15"}' \
        | posttrain rewards score rewards.py:shown_work
    {"id": 1, "score": 1.0, "status": "ok", "detail": ""}
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
shown_work = runpy.run_path(str(HERE / "rewards.py"))["shown_work"]  # by its path, as the recipe names it

QUESTION = "What is 20+7-12?"
GOLD = "<think>\n20+7=27\n27-12=15\n</think>\n\n\\boxed{15}"


def score(prompt: str, completion: str) -> Any:
    """The score of one completion, passed as a run passes it: as messages."""
    prompts = [[{"role": "user", "content": prompt}]]
    completions = [[{"role": "assistant", "content": completion}]]
    return shown_work(prompts=prompts, completions=completions, answer=["15"])[0]


def test_gold_scores_full() -> None:
    assert score(QUESTION, GOLD) == 1.0


def test_every_response_of_the_data_scores_full() -> None:
    rows = [json.loads(line) for line in (HERE / "data" / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in rows if score(row["prompt"], row["response"]) != 1.0] == []


@pytest.mark.parametrize(
    ("completion", "most"),
    [
        ("<think>\n\n</think>\n\n\\boxed{15}", 0.0),  # the right answer, no work
        ("<think>\n1+1=2\n1+1=2\n</think>\n\n\\boxed{15}", 0.0),  # true lines about something else
        ("<think>\n\n</think>\n\n20+7=27\n27-12=15", 0.0),  # work after the fact
        ("<think>\n20+7=27\n27-12=15", 0.0),  # never stops thinking
        ("<think>\n20+7=27\n27-12=14\n</think>\n\n\\boxed{15}", 0.5),  # one step of two is wrong
        ("<think>\n20+7=27\n27-12=15\n15+0=15\n15+0=15\n</think>\n\n\\boxed{15}", 0.5),  # padding
    ],
)
def test_what_shows_no_work_is_not_paid_for_it(completion: str, most: float) -> None:
    assert score(QUESTION, completion) <= most


def test_a_prompt_without_a_sum_is_not_judged() -> None:
    assert score("Reverse cat dog.", GOLD) is None
