"""The numbers of an evaluation again, question by question, from the completions that it kept.

Questions are told apart by their ids, never by their text. A number is used only if its questions' mean is what the
evaluation's table says: what can't be made again exactly (by domain, or where tools had a turn) is never paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.pipelines.records.results import Figure
from posttrain.stages.data.store import iter_rows
from posttrain.stages.evaluation.intervals import Table, pass_at, question_means
from posttrain.thinking import split_thinking

COMPLETIONS = "completions.parquet"
FLAGS = "flags"
"""The mode of mode-following suites; their completions stand by turn."""

ByQuestion = dict[str, float]
"""By question id: the mean of its samples; nan where none has a verdict."""


@dataclass(frozen=True, kw_only=True)
class SampledAnswer:
    """What is kept of one completion."""

    score: float
    """nan without a verdict."""
    tokens: float
    truncated: float
    well_formed: float
    task: str
    wanted: str
    """The mode that a turn of a dialogue should be in."""


Asked = dict[str, list[SampledAnswer]]
"""By question id."""


@dataclass(frozen=True, kw_only=True)
class AnswerTable:
    """An evaluation's completions by (suite, ask), and what each question says."""

    asked: Mapping[tuple[str, str], Asked]
    texts: Mapping[tuple[str, str], Mapping[str, str]]

    def asks(self, suite: str, mode: str, metric: str) -> list[str]:
        """The asks that a number of the suite is made of: its mode, with a budget, or all turns of a dialogue."""
        if mode == FLAGS:
            return sorted(ask for name, ask in self.asked if name == suite and ask.startswith("turn "))
        return [f"{mode}@{metric.split('@')[1]}" if metric.startswith("accuracy@") else mode]

    def by_question(self, row: Figure) -> ByQuestion | None:
        """The values behind a number, by question id; None if they don't give the number that the table has."""
        asked = [self.asked.get((row.suite, ask)) for ask in self.asks(row.suite, row.mode, row.metric)]
        if not asked or None in asked:
            return None
        found = (_of_turns if row.mode == FLAGS else _of_samples)(row.metric, [a for a in asked if a is not None])
        if found is None:
            return None
        known = [value for value in found.values() if not math.isnan(value)]
        mean = float(np.mean(known)) if known else math.nan
        return found if len(known) == row.n and np.isclose(mean, row.value, atol=1e-9, equal_nan=True) else None

    def questions(self, suite: str, mode: str, metric: str) -> dict[str, str]:
        """What each question says, by id; of a dialogue, what it says first."""
        asks = self.asks(suite, mode, metric)
        return dict(self.texts.get((suite, asks[0]), {})) if asks else {}


def read_answers(artifact: Path) -> AnswerTable | None:
    """The completions of a finished evaluation; None if it kept none. Raises DataError for a file that isn't whole."""
    path = artifact / COMPLETIONS
    if not path.exists():
        return None
    asked: dict[tuple[str, str], Asked] = {}
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for row in iter_rows(path):
        place, question = (row["suite"], row["ask"]), row["prompt_id"]
        asked.setdefault(place, {}).setdefault(question, []).append(_sample(row))
        texts.setdefault(place, {})[question] = row["prompt"]
    return AnswerTable(asked=asked, texts=texts)


def _sample(row: Mapping[str, Any]) -> SampledAnswer:
    parts = row.get("parts") or [{}]
    return SampledAnswer(
        score=float(row.get("score", math.nan)),
        tokens=float(row["tokens"]),
        truncated=float(row["finish_reason"] == "length"),
        well_formed=float(split_thinking(row.get("text", "")).well_formed),
        task=str(row.get("task", "")),
        wanted=str(parts[0].get("reward", "")),
    )


def _of_samples(metric: str, asked: Sequence[Asked]) -> ByQuestion | None:
    (questions,) = asked
    name, _, detail = metric.partition("/")
    if name == "accuracy" and detail:
        of, _, task = detail.partition("/")
        if of != "task":
            return None  # by domain, which completions don't tell
        questions = {question: samples for question, samples in questions.items() if samples[0].task == task}
    name, _, number = name.partition("@")
    if name == "pass":
        values = pass_at(_table(list(questions.values()), "score"), int(number))[:, 0]
    elif name == "no_verdict":
        values = np.isnan(_table(list(questions.values()), "score")).mean(1)
    elif field := {
        "accuracy": "score",
        "tokens": "tokens",
        "truncated": "truncated",
        "think_format": "well_formed",
    }.get(name):
        values = question_means(_table(list(questions.values()), field))
    else:
        return None
    return dict(zip(questions, values.tolist(), strict=True))


def _of_turns(metric: str, turns: Sequence[Asked]) -> ByQuestion | None:
    """A dialogue's turns: the share in the right mode, whether all are, or the share among turns of one mode."""
    values: dict[str, list[float]] = {question: [] for question in turns[0]}
    name, _, mode = metric.partition("/")
    for turn in turns:
        for question, samples in turn.items():
            values.setdefault(question, []).extend(s.score for s in samples if not mode or s.wanted == mode)
    if name == "turns":
        return {question: float(np.mean(scores)) if scores else math.nan for question, scores in values.items()}
    return {question: min(scores) for question, scores in values.items()} if name == "dialogues" else None


def _table(samples: Sequence[Sequence[SampledAnswer]], field: str) -> Table:
    """A field of all samples, [questions, samples]; nan where a question has fewer than others."""
    table = np.full((len(samples), max(map(len, samples), default=0)), math.nan)
    for at, mine in enumerate(samples):
        table[at, : len(mine)] = [getattr(sample, field) for sample in mine]
    return table
