"""What confinement costs a verdict: the bare library, a worker process with the user's rights, and confined rooms.

    python benchmarks/verifier_rooms.py [--rows 200] [--threads 2]

Every row answers another item, in groups of 8 completions as a run scores them. Answers to reasoning_gym's items are
wrong, since a right one is recognised without its verifier. All columns run one after the other on the same rows, so
the ratios hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.configs.schema import RewardUse
from posttrain.rewards.base import BUILTINS
from posttrain.rewards.mathematics.math import SymbolicService
from posttrain.rewards.mixture.mix import Scorer
from posttrain.types import Completion, Prompt

GROUP = 8
Item = tuple[Prompt, Completion]


def item(number: int, text: str, columns: dict[str, Any]) -> Item:
    """A prompt with these columns, and a completion of it."""
    prompt = Prompt(id=str(number), messages=({"role": "user", "content": "?"},), columns=columns)
    none = np.zeros(0, np.int64)
    completion = Completion(
        prompt_id=prompt.id, index=0, prompt_ids=none, token_ids=none, text=text, sources=np.zeros(0, np.int8),
        logprobs=np.zeros(0, np.float32), versions=none, finish_reason="stop",
    )  # fmt: skip
    return prompt, completion


def reasoning_gym_items(rows: int) -> list[Item]:
    """Answers near the golds of four data sets, three of which evaluate the answer."""
    from reasoning_gym import create_dataset

    found = []
    for task in ("chain_sum", "countdown", "n_queens", "polynomial_multiplication"):
        for number, entry in enumerate(create_dataset(task, size=rows // 4, seed=1)):
            columns = {"entry": json.loads(json.dumps(entry)), "task_name": task}
            found.append(item(number, f"<answer>{entry['answer']}1</answer>", columns))
    return found


def math_items(rows: int, *, symbolic: bool) -> list[Item]:
    """Whole numbers; or polynomials that only algebra compares."""
    if symbolic:
        return [item(n, f"\\boxed{{(x+{n})^2}}", {"answer": f"x^2+{2 * n}x+{n * n}"}) for n in range(rows)]
    return [item(n, f"So it is \\boxed{{{n}}}.", {"answer": str(n)}) for n in range(rows)]


def bare(name: str, items: Sequence[Item]) -> float:
    """Seconds of the reward's function in this process."""
    builtin = BUILTINS[name]
    handed = {"symbolic": _InProcess()} if builtin.needs == "math" else {}
    calls = [
        ([p.messages], [c.text], {key: [p.columns.get(key)] for key in builtin.columns + builtin.optional})
        for p, c in items
    ]
    builtin.function(*calls[0][:2], **calls[0][2], **handed)  # loads
    started = time.perf_counter()
    values = [builtin.function(prompts, texts, **columns, **handed)[0] for prompts, texts, columns in calls]
    seconds = time.perf_counter() - started
    assert all(isinstance(value, float) for value in values), values
    return seconds


class _InProcess:
    def __init__(self) -> None:
        self._service = SymbolicService()

    def same(self, gold: str, answer: str) -> bool | None:
        return self._service((gold, answer))


def scored(name: str, items: Sequence[Item], threads: int, confine: bool | None) -> float:
    """Seconds of a scorer, in groups."""
    with Scorer([RewardUse(use=name, confine=confine)], recipe_dir=Path.cwd()) as scorer:
        scorer.score(items[:1])  # starts
        groups = [items[i : i + GROUP] for i in range(0, len(items), GROUP)]
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            values = [score.value for scores in pool.map(scorer.score, groups) for score in scores]
        seconds = time.perf_counter() - started
    assert all(isinstance(value, float) for value in values), values
    return seconds


def rows_of(count: int) -> Iterator[tuple[str, str, Callable[[], list[Item]]]]:
    """(what, reward, its items)"""
    yield "reasoning_gym, four data sets", "reasoning_gym", lambda: reasoning_gym_items(count)
    yield "math, by algebra", "math", lambda: math_items(count, symbolic=True)
    yield "math, whole numbers", "math", lambda: math_items(20 * count, symbolic=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print("| verdicts per second | bare library | not confined | confined | confined / bare, ms more per verdict |")
    print("|---|---|---|---|---|")
    for what, name, make in rows_of(arguments.rows):
        items = make()
        times = [
            bare(name, items),
            scored(name, items, arguments.threads, confine=False),
            scored(name, items, arguments.threads, confine=None),
        ]
        rates = " | ".join(f"{len(items) / seconds:,.0f}" for seconds in times)
        more = 1000 * (times[2] - times[0]) / len(items)
        print(f"| {what} | {rates} | {times[0] / times[2]:.2f}, {more:.2f} |", flush=True)


if __name__ == "__main__":
    main()
