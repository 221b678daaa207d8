"""`posttrain rewards list` and `posttrain rewards score NAME`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pydantic import ValidationError

from posttrain.configs.loading.references import resolve
from posttrain.configs.nodes.judges import LITERAL_KEY, literal_keys
from posttrain.configs.schema import JudgeModel, RewardUse
from posttrain.errors import InputError, RewardError
from posttrain.rewards.base import BUILTINS, check_use, needed_columns
from posttrain.rewards.contract import ModelHost, parameters
from posttrain.rewards.mixture.confinement import describe_reward
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.models.endpoint import EndpointHost
from posttrain.types import Completion, Prompt, Score

_OWN = ("id", "completion", "prompt", "messages")


def list_rewards() -> list[tuple[str, tuple[str, ...], str]]:
    """(name, required columns, description) of every built-in."""
    return [(name, reward.columns, reward.doc) for name, reward in BUILTINS.items()]


def rewards_json() -> dict[str, dict[str, Any]]:
    """What `rewards list --json` prints: kind, columns, parameters with defaults, and description, by name."""
    return {
        name: {
            "kind": reward.kind,
            "sees": reward.sees,
            "columns": list(reward.columns),
            "optional_columns": list(reward.optional),
            "parameters": {
                name: None if parameter.default is parameter.empty else parameter.default
                for name, parameter in parameters(reward).items()
            },
            "required_parameters": list(reward.params),
            "description": reward.doc,
        }
        for name, reward in BUILTINS.items()
    }


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


def parse_judge(text: str) -> JudgeModel:
    """The judge that `--judge` names, ${NAME}s looked up in the environment. Raises InputError unless it is one."""
    example = """--judge '{"endpoint": "http://localhost:8000/v1", "model": "NAME", "api_key": "${OPENAI_API_KEY}"}'"""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where="--judge", fix=f"write an object: {example}") from None
    if list(literal_keys({"judge": raw})):
        raise InputError(f"`api_key` {LITERAL_KEY}", where="--judge")
    missing: list[str] = []
    data = resolve(raw, os.environ, lambda at, name: missing.append(name))
    if missing:
        raise InputError(f"the environment variable {missing[0]} isn't set", where="--judge")
    try:
        return JudgeModel.model_validate(data)
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        what = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}".removeprefix(": ")
        raise InputError(what, where="--judge", fix=f"like {example}") from None


def score_lines(
    name: str,
    stdin: TextIO,
    stdout: TextIO,
    *,
    recipe_dir: Path | None = None,
    params: Mapping[str, Any] | None = None,
    judge: JudgeModel | None = None,
    model: str | None = None,
    models: ModelHost | None = None,
    languages: Sequence[str] = (),
    preload: Sequence[str] = (),
) -> int:
    """Scores one JSON line at a time with one reward, flushed; returns the exit code.

    In: {"id", "completion", and columns}, as you like with "prompt" (text) or "messages". Out: {"id", "score",
    "status", "detail"}. `judge` or `model` is what the reward asks; `models` holds it. `languages` and `preload` are
    what the sandbox has besides Python and its standard library.

    Raises InputError if there is no such reward, language or library, SandboxError if it needs a sandbox that this
    host can't put up.
    """
    with open_scorer(
        name,
        recipe_dir=recipe_dir or Path.cwd(),
        params=params,
        judge=judge,
        model=model,
        models=models,
        languages=languages,
        preload=preload,
    ) as (scorer, needed):
        print(f"{name}: {describe_reward(RewardUse(use=name))}", file=sys.stderr)
        for line in stdin:
            if line.strip():
                stdout.write(json.dumps(_answer(scorer, line, needed)) + "\n")
                stdout.flush()
    return 0


@contextmanager
def open_scorer(
    name: str,
    *,
    recipe_dir: Path,
    params: Mapping[str, Any] | None = None,
    judge: JudgeModel | None = None,
    model: str | None = None,
    models: ModelHost | None = None,
    languages: Sequence[str] = (),
    preload: Sequence[str] = (),
) -> Iterator[tuple[Scorer, tuple[str, ...]]]:
    """Open a scorer of one reward, with the columns that the reward reads; its processes end with the block.

    Raises InputError and SandboxError as `score_lines` does.
    """
    use = RewardUse.model_validate({"use": name, "params": dict(params or {}), "judge": judge, "model": model})
    check_use(use, recipe_dir)
    needed = needed_columns(use, recipe_dir)
    sandbox = _sandbox(use, languages, preload)
    try:
        host = models or EndpointHost()
        with Scorer([use], recipe_dir=recipe_dir, judge=sandbox, models=host, max_error_rate=1.0) as scorer:
            yield scorer, needed
    finally:
        if sandbox is not None:
            sandbox.close()


def _sandbox(use: RewardUse, languages: Sequence[str], preload: Sequence[str]) -> Any:
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
        score = scorer.score([make_item(row, needed)])[0]
    except (RewardError, InputError):
        raise  # the reward itself is broken, or its model is none: every line would fail
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        score = Score(value=None, status="infra_error", detail=f"{type(error).__name__}: {error}")
    return {
        "id": row.get("id") if isinstance(row, dict) else None,
        "score": score.value,
        "status": score.status,
        "detail": score.detail[:2000],
    }


def make_item(row: Any, needed: tuple[str, ...]) -> tuple[Prompt, Completion]:
    """A prompt and a completion of one row, as rewards get them. Raises ValueError if a column is missing."""
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
