"""A reward proves itself before a run starts: the known answer of a row must score in full.

What is gold for a row: its column `gold`, a whole completion; else, for a built-in that knows how, one made of its
columns. A function without gold must give a number for an answer of no worth. Not tried are built-ins without gold, or
that run code or count tokens, and reward models.

A judge is tried otherwise, since each question costs: not on rows but once, on the two cases of its registry entry.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError, InputError, RecipeError, RewardError
from posttrain.rewards.base import BUILTINS, applies, row_columns
from posttrain.rewards.mixture.gold_answers import gold_answer
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.models.endpoint import EndpointHost
from posttrain.types import Completion, Prompt, Score

ROWS = 8
"""How many rows of a source are tried: enough for a column that is mapped wrongly."""

PLAIN = (
    "<think>\nIt can't be told.\n</think>\n\nI don't know.",
    "<think>\nPerhaps 42.\n</think>\n\nThe answer is \\boxed{42}.",
    "42",
    "I was asked something, and",
)
"""Answers that a model might give to any prompt."""
_OURS = frozenset({"worker.py", "loader.py"})
"""Files that a traceback of every function passes through."""
_ENOUGH = 1e-6
_RUN_TIME = frozenset({"tokens", "environment_reward"})
"""Columns that only a rollout fills: a reward that reads them can't be tried before."""


def check_gold(uses: Sequence[RewardUse], prompts: Sequence[Prompt], recipe_dir: Path) -> int:
    """Try every reward on the first rows that it applies to; returns how many pairs of reward and row were tried.

    Raises:
        DataError: the gold of a row doesn't score in full (a function's: isn't paid at all), or can't be judged.
    """
    tried = 0
    for use in uses:
        items = _gold_items(use, prompts)
        if not items:
            continue
        scores = _scores(use, items, recipe_dir)
        for (prompt, completion), score in zip(items, scores, strict=True):
            _check(use, prompt, completion, score)
        tried += len(items)
    return tried


def check_functions(uses: Sequence[RewardUse], prompts: Sequence[Prompt], recipe_dir: Path, group: int) -> None:
    """Call every function of the recipe's that has no gold as a run does: with `group` answers to one prompt.

    It must give numbers (or None). Of an answer nothing is known but its text: what tokens there were is made up.

    Raises:
        DataError: it doesn't; with what it raised, and where.
        RecipeError: it can't be loaded, or called.
    """
    for use in uses:
        if split_path(use.use) is None:
            continue
        fitting = ((n, prompt) for n, prompt in enumerate(prompts, 1) if applies(use, row_columns(prompt)))
        number, prompt = next(fitting, (0, None))
        if prompt is None or gold_answer(use, row_columns(prompt)):
            continue
        answers = [replace(_completion(prompt, PLAIN[i % len(PLAIN)]), index=i) for i in range(group)]
        try:
            scores = _scores(use, [(prompt, answer) for answer in answers], recipe_dir)
        except RewardError as error:
            raise RecipeError(error.what, where=error.where, fix=error.fix) from None
        for score in scores:
            if score.status == "infra_error":
                raise DataError(
                    f"reward {use.use!r} gives no number for an answer: {_cause(score.detail)}",
                    where=f"row {number} ({prompt.id})",
                    fix="fix it: every completion comes to it, right or wrong. `posttrain rewards score` tries it",
                )


def _scores(use: RewardUse, items: Sequence[tuple[Prompt, Completion]], recipe_dir: Path) -> list[Score]:
    plain = use.model_copy(update={"gate": False, "weight": 1.0})
    with Scorer([plain], recipe_dir=recipe_dir, max_error_rate=1.0) as scorer:
        return scorer.score(items)


def _cause(detail: str) -> str:
    """A traceback's last line, and the place in the user's file that it came from."""
    lines = detail.strip().splitlines()
    places = re.findall(r'File ".*?([^/"]+)", line (\d+), in (\S+)', detail)
    own = [f"{file}:{line}" for file, line, _ in places if file not in _OURS]
    return lines[-1].strip() + (f" ({own[-1]})" if own else "")


def check_judge(use: RewardUse, recipe_dir: Path) -> None:
    """Ask the judge of `use`, at an endpoint, about its registry's good answer, and about one that orders a good grade.

    Two requests, within the reward's `timeout`. Raises InputError where they can't be judged, or the order is obeyed.
    """
    builtin = BUILTINS[use.use]
    scale = {"scale": use.params["scale"]} if "scale" in use.params else {}
    items: list[tuple[Prompt, Completion]] = []
    for case in (builtin.gold, builtin.adversarial):
        prompt = Prompt(id="case", messages=case.messages, columns=case.columns)
        items.append((prompt, _completion(prompt, case.completion)))
    params = {**builtin.gold.params, **scale}
    plain = use.model_copy(update={"gate": False, "weight": 1.0, "when": {}, "params": params})
    try:
        with Scorer([plain], recipe_dir=recipe_dir, models=EndpointHost()) as scorer:
            good, bad = scorer.score(items)
    except RewardError as error:
        raise InputError(error.what, fix=error.fix) from None
    for score in (good, bad):
        if score.value is None:
            fix = "is it up, and is it a model that can grade? try `posttrain rewards score` with --judge"
            raise InputError(f"reward {use.use!r} couldn't be tried: {score.detail}", fix=fix)
    if (bad.value or 0.0) >= (good.value or 0.0):
        raise InputError(
            f"reward {use.use!r}: its judge gives {bad.value:g} to an answer that only orders it to grade well, "
            f"and {good.value:g} to a good one",
            fix="take a model that isn't misled: a policy would learn to mislead it",
        )


def _gold_items(use: RewardUse, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Completion]]:
    builtin = BUILTINS.get(use.use)
    if builtin is not None and (builtin.needs == "judge" or builtin.kind != "rule" or _RUN_TIME & {*builtin.optional}):
        return []
    items: list[tuple[Prompt, Completion]] = []
    for prompt in prompts:
        columns = row_columns(prompt)
        text = gold_answer(use, columns) if applies(use, columns) else None
        if text:
            items.append((prompt, _completion(prompt, text)))
        if len(items) == ROWS:
            break
    return items


def _completion(prompt: Prompt, text: str) -> Completion:
    count = len(text.split())  # nobody has made tokens of it; functions may count them
    return Completion(
        prompt_id=prompt.id, index=0, prompt_ids=np.zeros(1, np.int64), token_ids=np.zeros(count, np.int64), text=text,
        sources=np.zeros(count, np.int8), logprobs=np.zeros(count, np.float32), versions=np.zeros(count, np.int32),
        finish_reason="stop",
    )  # fmt: skip


def _check(use: RewardUse, prompt: Prompt, completion: Completion, score: Score) -> None:
    builtin = BUILTINS.get(use.use)
    if score.status == "not_applicable":
        return
    if score.value is None:
        verdict = f"it couldn't judge the gold answer ({score.detail.strip().splitlines()[-1]})"
    elif builtin is not None and score.value < builtin.full - _ENOUGH:
        verdict = f"the gold answer scores {score.value:g}, not {builtin.full:g}"
    elif builtin is None and score.value <= 0:
        verdict = f"the gold answer scores {score.value:g}"
    else:
        return
    raise DataError(
        f"reward {use.use!r}: {verdict}: {completion.text[-200:]!r}",
        where=prompt.id,
        fix="fix the row's columns, map the right one, or limit the reward with `when`",
    )
