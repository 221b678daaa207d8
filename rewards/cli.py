"""`posttrain rewards list` and `posttrain rewards score NAME`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from posttrain.configs.schema import RewardUse
from posttrain.errors import InputError, RewardError
from posttrain.rewards.base import BUILTINS, check_use, needed_columns
from posttrain.rewards.loader import split_path
from posttrain.rewards.mix import Scorer
from posttrain.types import Completion, Prompt, Score

_OWN = ("id", "completion", "prompt", "messages")


def list_rewards() -> list[tuple[str, tuple[str, ...], str]]:
    """(name, columns it needs, what it says) of every built-in."""
    return [(name, reward.columns, reward.doc) for name, reward in BUILTINS.items()]


def parse_params(text: str) -> dict[str, Any]:
    """The parameters that `--params` gives a reward. Raises InputError unless it is a JSON object."""
    example = """--params '{"pattern": "^[0-9]+$"}'"""
    try:
        params = json.loads(text)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where="--params", fix=f"write an object: {example}") from None
    if not isinstance(params, dict):
        raise InputError(f"parameters are a JSON object, not {text[:80]}", where="--params", fix=f"like {example}")
    return params


def score_lines(
    name: str,
    stdin: TextIO,
    stdout: TextIO,
    *,
    recipe_dir: Path | None = None,
    params: Mapping[str, Any] | None = None,
    languages: Sequence[str] = (),
    preload: Sequence[str] = (),
) -> int:
    """Scores one JSON line at a time with one reward, flushed; returns the exit code.

    In: {"id", "completion", and columns}, as you like with "prompt" (text) or "messages". Out: {"id", "score",
    "status", "detail"}. `languages` and `preload` are what the sandbox has besides Python and its standard library.
    Raises InputError if there is no such reward, language or library, SandboxError if it needs a sandbox that this
    host can't put up.
    """
    use = RewardUse(use=name, params=dict(params or {}))
    folder = recipe_dir or Path.cwd()
    check_use(use, folder)
    needed = needed_columns(use, folder)
    judge = _judge(use, languages, preload)
    try:
        with Scorer([use], recipe_dir=folder, judge=judge, max_error_rate=1.0) as scorer:
            for line in stdin:
                if line.strip():
                    stdout.write(json.dumps(_answer(scorer, line, needed)) + "\n")
                    stdout.flush()
    finally:
        if judge is not None:
            judge.close()
    return 0


def _judge(use: RewardUse, languages: Sequence[str], preload: Sequence[str]) -> Any:
    if split_path(use.use) or use.use not in BUILTINS or BUILTINS[use.use].needs != "judge":
        if languages or preload:
            what = "it runs no code in the sandbox"
            raise InputError(f"{use.use}: {what}", where="--language, --preload", fix="leave these options out")
        return None
    from posttrain.sandbox.cli import check_names
    from posttrain.sandbox.pool import LocalJudgePool

    check_names(preload, languages)
    return LocalJudgePool(preload=preload, languages=languages)


def _answer(scorer: Scorer, line: str, needed: tuple[str, ...]) -> dict[str, Any]:
    row: Any = None
    try:
        row = json.loads(line)
        score = scorer.score([_item(row, needed)])[0]
    except RewardError:
        raise  # the reward itself is broken: every line would fail
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        score = Score(value=None, status="infra_error", detail=f"{type(error).__name__}: {error}")
    return {
        "id": row.get("id") if isinstance(row, dict) else None,
        "score": score.value,
        "status": score.status,
        "detail": score.detail[:2000],
    }


def _item(row: Any, needed: tuple[str, ...]) -> tuple[Prompt, Completion]:
    if not isinstance(row, dict) or not isinstance(row.get("completion"), str):
        raise ValueError("a line is an object with the text `completion`")
    columns = {k: v for k, v in row.items() if k not in _OWN}
    missing = [c for c in needed if c not in columns]
    if missing:
        raise ValueError(f"the reward reads the column {missing[0]!r}, and this line has none")
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt") or ""}]
    prompt = Prompt(id=str(row.get("id", "")), messages=tuple(messages), columns=columns)
    none = np.zeros(0, np.int64)
    completion = Completion(
        prompt_id=prompt.id,
        index=0,
        prompt_ids=none,
        token_ids=none,
        text=row["completion"],
        sources=np.zeros(0, np.int8),
        logprobs=np.zeros(0, np.float32),
        versions=np.zeros(0, np.int64),
        finish_reason="stop",
    )
    return prompt, completion
