from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.types import Completion, Message, Mode, Prompt

Item = tuple[Prompt, Completion]


@pytest.fixture
def item() -> Callable[..., Item]:
    """Makes a prompt with columns and a completion of it."""

    def make(text: str, *, mode: Mode = "default", task: str = "", question: str = "?", **columns: Any) -> Item:
        messages: tuple[Message, ...] = ({"role": "user", "content": question},)
        prompt = Prompt(id="p", messages=messages, mode=mode, task=task, columns=columns)
        empty = np.zeros(0, np.int64)
        completion = Completion(
            prompt_id="p",
            index=0,
            prompt_ids=empty,
            token_ids=np.array([7, 8]),
            text=text,
            sources=np.zeros(2, np.int8),
            logprobs=np.zeros(2, np.float32),
            versions=np.zeros(2, np.int32),
            finish_reason="stop",
        )
        return prompt, completion

    return make


@pytest.fixture
def rewards_file(tmp_path: Path) -> Path:
    """A folder with `mine.py`, a file of reward functions."""
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path


FUNCTIONS = """
import asyncio, os, signal, threading, time


def length(prompts, completions, **columns):
    return [float(len(c[0]["content"])) for c in completions]


def optional(prompts, completions, answer):
    return [None if a is None else float(a) for a in answer]


async def slow_sum(completions, **columns):
    await asyncio.sleep(0)
    return [1.0 for _ in completions]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(ground_truth in solution_str and extra_info["k"] == 1 and data_source == "d")}


def sees(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
    log_metric("seen", 1.0)
    log_metric("seen", 4.0)
    log_metric("lost", float("nan"))
    log_extra("note", ["x"])
    assert prompts[0] == [{"role": "user", "content": "?"}] and trainer_state.global_step == 7
    assert completions[0][0]["role"] == "assistant"
    return [float(sum(ids)) for ids in completion_ids]


def not_finite(prompts, completions, value, **columns):
    return [float(v) for v in value]


def gold(prompts, completions, ground_truth):
    return [float(g == c[0]["content"]) for c, g in zip(completions, ground_truth)]


def trap(prompts, completions, **columns):
    for text in (c[0]["content"] for c in completions):
        if text == "exit":
            os._exit(3)
        if text == "hang":
            time.sleep(1000)
        if text == "raise":
            raise KeyError("my own mistake")
    return [1.0] * len(completions)


def main_thread(prompts, completions, **columns):
    signal.signal(signal.SIGALRM, lambda *a: None)
    return [float(threading.current_thread() is threading.main_thread())] * len(completions)


def short(prompts, completions, **columns):
    return []
"""
