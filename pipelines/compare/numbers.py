"""The numbers of two runs against each other: B minus A, with an interval, where they are of one suite.

paired          the same questions: an interval over questions' differences, drawn again by question
unpaired        other questions of the same suite: both sets are drawn again, each on its own
means only      questions can't be told apart any more: a difference, and no interval
suites differ   a definition, a budget, a file or a model that judges differs: no difference is given at all
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain.errors import DataError, InputError
from posttrain.pipelines.compare.answers import AnswerTable, read_answers
from posttrain.pipelines.compare.recipes import differences, show_value
from posttrain.pipelines.graph.keys import Hashes
from posttrain.pipelines.records.ledger import Ledger
from posttrain.pipelines.records.results import Figure, RunResults, evaluation_rows
from posttrain.stages.evaluation.intervals import bootstrap_interval, difference_interval

Basis = Literal["paired", "unpaired", "means only", "suites differ"]

ENOUGH = 10
"""Questions from which an interval is given. A bootstrap draws the few that there are again and knows of no others: of
one question that went from 0 to 1 it would say that the gain is certain. The same of any number that all differ by the
same, which it can only repeat."""

HOW_MUCH = ("k", "modes", "pass_at", "budgets")
"""Fields of a suite that say how much is asked: what both were asked means the same in both."""


@dataclass(frozen=True, kw_only=True)
class ComparedNumber:
    """One number in both runs."""

    a: Figure
    b: Figure
    basis: Basis
    why: str = ""
    """What keeps it from being paired, or is to be known about it."""
    difference: float = math.nan
    """b - a, over `questions`."""
    low: float = math.nan
    high: float = math.nan
    questions: int = 0
    """How many the difference is over, those of both runs if it isn't paired."""
    missing: tuple[int, int] = (0, 0)
    """Samples without a verdict in A, in B."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation, and what it was asked to do."""

    name: str
    folder: Path
    rows: tuple[Figure, ...]
    spec: Mapping[str, Any]
    """Of spec.json: spec.suites, files, version, inputs, base."""

    def suite(self, name: str) -> Mapping[str, Any]:
        return next((suite for suite in self.spec["spec"]["suites"] if suite["name"] == name), {})

    @cached_property
    def answers(self) -> AnswerTable | None:
        try:
            return read_answers(self.folder / "artifact")
        except DataError as error:
            raise damaged(self.name, self.folder, error.what) from None


def compare_numbers(a: RunResults, b: RunResults) -> tuple[list[ComparedNumber], list[str]]:
    """All numbers that both runs have, in the order of A, and notes on what only one has.

    Raises:
        InputError: a finished evaluation is damaged.
    """
    mine, others = _evaluations(a), _evaluations(b)
    numbers, notes = [], []
    for key in (key for key in mine if key in others):
        one, other = mine[key], others[key]
        rows = {(row.mode, row.metric): row for row in other.rows if row.suite == key[1]}
        differ = _suites_differ(one, other, key[1])
        for row in one.rows:
            if row.suite == key[1] and (row.mode, row.metric) in rows:
                numbers.append(_compare(one, other, row, rows[row.mode, row.metric], differ))
    for known, missing, side in ((mine, others, "A"), (others, mine, "B")):
        only = [f"{stage}:{suite}" for stage, suite in known if (stage, suite) not in missing]
        if only:
            notes.append(f"evaluated in {side} only: {', '.join(only)}")
    if not numbers:
        notes.append("no stage is evaluated on one suite in both: there are no numbers to compare")
    return numbers, notes


def damaged(evaluation: str, folder: Path, what: str) -> InputError:
    """The error for a finished evaluation that can't be read."""
    fix = f"run the recipe again with --force {evaluation}"
    return InputError(f"the evaluation `{evaluation}` is damaged: {what}", where=str(folder), fix=fix)


def _evaluations(results: RunResults) -> dict[tuple[str, str], Evaluation]:
    """Finished evaluations by the stage they are of and the suite; the first, where one was asked twice."""
    ledger, hashes = Ledger(results.run_dir), Hashes()
    found: dict[tuple[str, str], Evaluation] = {}
    for stage in results.stages:
        name = stage["name"]
        if stage["gives"] != "table" or results.states[name]["state"] != "done":
            continue
        spec, damage = ledger.recorded(name), ledger.damage(name, hashes)
        if damage or not spec.get("spec", {}).get("suites"):
            raise damaged(name, ledger.dir(name), damage or "its spec.json says nothing of suites")
        of = stage["evaluates"]
        # A model that is no stage (`posttrain eval MODEL`) has another name in each run, which its evaluation hasn't.
        known = of if of == "base" or of in results.states else name
        rows = tuple(evaluation_rows(ledger, {**stage, "evaluates": known}))
        evaluation = Evaluation(name, ledger.dir(name), rows, spec)
        for row in rows:
            found.setdefault((row.stage, row.suite), evaluation)
    return found


def _compare(one: Evaluation, other: Evaluation, a: Figure, b: Figure, differ: str) -> ComparedNumber:
    if differ:
        return ComparedNumber(a=a, b=b, basis="suites differ", why=differ)
    answers, others = one.answers, other.answers
    unknown = [_no_verdict(side, row) for side, row in ((answers, a), (others, b))]
    missing = unknown[0][0], unknown[1][0]
    biased = ""
    if any(missing):
        (in_a, all_a), (in_b, all_b) = unknown
        biased = (
            f"no verdict on {in_a} of {all_a} samples in A, {in_b} of {all_b} in B: they are left out, which favours "
            "the run whose wrong answers lack one"
        )
    values = answers.by_question(a) if answers else None
    against = others.by_question(b) if others else None
    if values is None or against is None or answers is None or others is None:
        why = _joined("its completions don't tell it by question", biased)
        return ComparedNumber(a=a, b=b, basis="means only", why=why, difference=b.value - a.value, missing=missing)
    texts, other_texts = answers.questions(a.suite, a.mode, a.metric), others.questions(b.suite, b.mode, b.metric)
    for question in texts.keys() & other_texts.keys():
        if texts[question] != other_texts[question]:
            return ComparedNumber(
                a=a, b=b, basis="suites differ", why=f"question {question} doesn't say the same in both"
            )
    why = _joined(biased, _how_much(one.suite(a.suite), other.suite(b.suite)))
    return replace(_difference(a, b, values, against, why), missing=missing)


def _no_verdict(answers: AnswerTable | None, row: Figure) -> tuple[int, int]:
    """Of the samples behind a number that takes verdicts: those without one, and all of them."""
    name, _, task = row.metric.partition("/task/")
    if answers is None or name.partition("@")[0] not in ("accuracy", "pass"):
        return 0, 0
    asked = [answers.asked.get((row.suite, ask), {}) for ask in answers.asks(row.suite, row.mode, row.metric)]
    samples = [s for questions in asked for of_one in questions.values() for s in of_one if not task or s.task == task]
    return sum(math.isnan(sample.score) for sample in samples), len(samples)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _difference(
    a: Figure, b: Figure, values: Mapping[str, float], against: Mapping[str, float], why: str
) -> ComparedNumber:
    if values.keys() == against.keys():
        pairs = np.array([(value, against[question]) for question, value in values.items()]).reshape(-1, 2)
        known = pairs[~np.isnan(pairs).any(1)]
        steps = known[:, 1] - known[:, 0]
        low, high = bootstrap_interval(steps) if _enough(steps) else (math.nan, math.nan)
        if 0 < len(known) < len(pairs):
            why = _joined(f"{len(pairs) - len(known)} questions without a verdict in one of them are left out", why)
        return ComparedNumber(
            a=a, b=b, basis="paired", why=why, difference=_mean(steps), low=low, high=high, questions=len(known)
        )  # fmt: skip
    shared = len(values.keys() & against.keys())
    sets = f"question sets differ: {len(values)} in A, {len(against)} in B, {shared} in both"
    before, after = (np.array([v for v in side.values() if not math.isnan(v)]) for side in (values, against))
    enough = min(len(before), len(after)) >= ENOUGH and (_enough(before) or _enough(after))
    low, high = difference_interval(before, after) if enough else (math.nan, math.nan)
    return ComparedNumber(
        a=a,
        b=b,
        basis="unpaired",
        why=_joined(sets, why),
        difference=_mean(after) - _mean(before),
        low=low,
        high=high,
        questions=len(before) + len(after),
    )


def _enough(values: np.ndarray) -> bool:
    """Whether there is something to draw again: enough questions that aren't all the same."""
    return len(values) >= ENOUGH and float(np.ptp(values)) > 0


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _suites_differ(one: Evaluation, other: Evaluation, suite: str) -> str:
    """What makes a suite of one name two suites: its definition, or what the files, stages and models it names are."""
    a, b = one.suite(suite), other.suite(suite)
    found = [
        f"{difference.path} {show_value(difference.a)} in A, {show_value(difference.b)} in B"
        for difference in differences(a, b)
        if difference.path.split(".")[0] not in HOW_MUCH and not _only_counts(difference.path)
    ]
    if one.spec.get("version") != other.spec.get("version"):
        found.append("they were made by versions that read a recipe differently")
    files = one.spec.get("files", {}), other.spec.get("files", {})
    found += [
        f"{name} doesn't hold the same in both"
        for name in sorted(files[0].keys() & files[1].keys())
        if files[0][name] != files[1][name] and _is_of(name, suite, one.spec)
    ]
    named = _named(a) & _named(b)
    inputs = one.spec.get("inputs", {}), other.spec.get("inputs", {})
    found += [
        f"it takes `{name}` for its questions or verdicts, which isn't the same in both"
        for name in sorted(named & inputs[0].keys() & inputs[1].keys())
        if inputs[0][name] != inputs[1][name]
    ]
    if "base" in named and _base(one.spec) != _base(other.spec):
        found.append("it takes the base model for its verdicts, which isn't the same in both")
    return "; ".join(found)


def _named(node: Any) -> set[str]:
    """What a suite takes its questions and verdicts from: files, stages, `base`; of prompts, judges, reward models."""
    if isinstance(node, list):
        return set().union(*map(_named, node))
    if not isinstance(node, Mapping):
        return set()
    here = {node["from"]} if isinstance(node.get("from"), str) else set()
    return here.union(*map(_named, node.values()))


def _base(spec: Mapping[str, Any]) -> Any:
    """What tells one base from another: its content; of a name on the Hub, all that the recipe says."""
    base = spec.get("base") or {}
    return base.get("content") or base.get("model")


def _only_counts(path: str) -> bool:
    """`prompts.0.n`: how many questions of a source are asked."""
    return path.startswith("prompts.") and path.endswith(".n") and path.count(".") == 2


def _is_of(file: str, suite: str, spec: Mapping[str, Any]) -> bool:
    """Whether a file of the evaluation's key belongs to the suite: one it names, or nobody's (a reward's code)."""
    named = {one["name"]: _named(one) for one in spec["spec"]["suites"]}
    if file in named[suite]:  # also where it is the model that is evaluated: here it judges
        return True
    return file != spec["spec"]["model"]["from"] and not any(file in files for files in named.values())


def _how_much(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return "" if a.get("k") == b.get("k") else f"k is {a.get('k')} in A, {b.get('k')} in B"


def why_not_paired(numbers: Iterable[ComparedNumber]) -> list[str]:
    """One line for each suite of a stage and each reason, for people."""
    lines: dict[str, None] = {}
    for number in numbers:
        if number.why:
            lines[f"{number.a.stage}:{number.a.suite}:{number.a.mode}: {number.basis}: {number.why}"] = None
    return list(lines)
