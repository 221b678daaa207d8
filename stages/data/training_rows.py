"""Rows as an `sft` stage trains on them: conversations with their histories and flags, or plain documents.

`posttrain plan --check` and `posttrain data show` make the same samples before the stage runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from posttrain.configs.schema import DataSource, Sft
from posttrain.errors import DataError, InputError
from posttrain.stages.data.context_fit import most_tokens
from posttrain.stages.data.files import BadRows
from posttrain.stages.data.fusion import Earlier, Example, dialogue, example, targets
from posttrain.stages.data.load import check_row, derive_seed, patient, read
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.locations import Locations
from posttrain.types import Row, Sample

Pair = tuple[Example, Example]
"""A row alone, and as it is trained: with other rows in front, or the same again."""


class Reading(Protocol):
    """What of a stage's context its data depend on: `posttrain data show` has no more."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def inputs(self) -> Mapping[str, Path]: ...
    @property
    def locations(self) -> Locations: ...
    def say(self, text: str, /) -> None: ...


def build_sources(context: Reading, chat: ChatFormat, spec: Sft) -> list[list[Sample]]:
    """The training samples of each source.

    Raises:
        DataError: a row has nothing to learn from or is longer than max_length, with its place; or more rows than
            max_bad_share are, where they are skipped.
    """
    if spec.text:
        return [_documents(context, chat, spec, source) for source in spec.data]
    return [_samples(context, chat, spec, *part) for part in conversations(context, spec)]


def conversations(context: Reading, spec: Sft) -> list[tuple[BadRows, list[Pair]]]:
    """The rows of each source, as they are and with what other rows put in front of some; and the malformed ones.

    Raises:
        DataError: as `build_sources`, lengths aside.
    """
    bad = [BadRows(patient(context, source)) for source in spec.data]
    tables = [_examples(context, counted) for counted in bad]
    earlier = Earlier(tables, [source.weight for source in spec.data])
    rng = np.random.default_rng(derive_seed(context.seed, context.name, "dialogues"))

    def joined(row: Example) -> Example:
        return dialogue(row, earlier, rng) if earlier.pools and rng.random() < spec.multi_turn else row

    return [(counted, [(row, joined(row)) for row in rows]) for counted, rows in zip(bad, tables, strict=True)]


def _samples(context: Reading, chat: ChatFormat, spec: Sft, bad: BadRows, pairs: list[Pair]) -> list[Sample]:
    found: list[Sample] = []
    lost = 0
    for row, joined in pairs:
        samples, contradicting = render(chat, spec, row, joined)
        lost += contradicting
        longest = max(sample.tokens for sample in samples)
        if longest > spec.max_length:
            bad.turned_out(too_long(longest, spec, row.where))
        else:
            found += samples
    bad.settle()
    if lost:
        context.say(f"{context.name}: {lost} earlier turns are no targets: their thinking is lost")
    if bad.skipped:
        context.say(f"{context.name}: {bad}")
    if not found:
        raise DataError("no row is left to learn from", where=bad.source.source)
    return found


def too_long(tokens: int, spec: Sft, where: str) -> DataError:
    """What is said of a row of `tokens` tokens, where that is more than the stage takes."""
    return DataError(
        f"{tokens} tokens, more than max_length={spec.max_length}", where=where, fix="raise max_length, or cut the row"
    )


def render(chat: ChatFormat, spec: Sft, row: Example, joined: Example) -> tuple[list[Sample], int]:
    """A row's samples, and how many of its turns are no targets; alone, if what is in front makes it too long."""
    if spec.turns == "all" and not joined.closed:
        samples, left = [chat.conversation(joined.messages, joined.tools)], 0
    else:
        chosen, left = targets(joined, spec.turns)
        samples = [chat.last_turn(messages, joined.tools, closed=joined.closed) for messages in chosen]
    if joined is not row and any(sample.tokens > spec.max_length for sample in samples):
        return render(chat, spec, row, row)
    return samples, left


def _examples(context: Reading, bad: BadRows) -> list[Example]:
    source, numbers = bad.source, count(1)
    assert isinstance(source, DataSource)
    seed = row_seed(context, source)

    def make(row: Row, where: str) -> Example:
        check_row(row, source, where, form="conversations")
        return example(row, source, where, next(numbers), seed)

    return list(read(source, make, locations=context.locations, seed=context.seed, bad=bad))


def row_seed(context: Reading, source: DataSource) -> int:
    """What `fusion.example` draws a source's flags and switches by."""
    return derive_seed(context.seed, context.name, source.source) % 2**32


def _documents(context: Reading, chat: ChatFormat, spec: Sft, source: DataSource) -> list[Sample]:
    bad = BadRows(source)

    def make(row: Row, where: str) -> Sample:
        check_row(row, source, where, form="documents")
        ids = chat.document_ids(row["text"])[: spec.max_length]
        mask = np.ones(len(ids), np.float32)
        mask[0] = 0
        return Sample(ids=ids, loss_mask=mask)

    found = list(read(source, make, locations=context.locations, seed=context.seed, bad=bad))
    if bad.skipped:
        context.say(f"{context.name}: {bad}")
    return found


Rows = Sequence[tuple[Row, str]]
"""Checked rows, each with its place."""


def long_rows(
    reading: Reading, spec: Sft, open_chat: Callable[[], ChatFormat], rows_of: Callable[[DataSource], Rows | None]
) -> dict[str, int]:
    """The number of rows that are longer than the stage takes, by source; `rows_of` gives None where they can't be
    read yet.

    A text has no more tokens than bytes, so most rows are short without asking a tokenizer. Where it can't be loaded
    yet, the result is empty: the stage checks its rows before its first step.

    Raises:
        DataError: a row is too long, with file and line; or, where such rows are skipped, too many are.
    """
    found: dict[str, int] = {}
    chat: ChatFormat | None = None
    for source in () if spec.text else (*spec.data, *(spec.validation.data if spec.validation else ())):
        rows = rows_of(source) or ()
        if not any(most_tokens_of(row) > spec.max_length for row, _ in rows):
            continue
        try:
            chat = chat or open_chat()
        except InputError:
            return found
        found[source.source] = _long_of_source(reading, source, rows, spec, chat)
    return found


def shown_rows(reading: Reading, spec: Sft, chat: ChatFormat, n: int) -> Iterator[tuple[str, Sample]]:
    """The samples of the first `n` rows of each source, each with its place."""
    if spec.text:
        few = spec.model_copy(update={"data": tuple(s.model_copy(update={"n": n}) for s in spec.data)})
        for source, samples in zip(few.data, build_sources(reading, chat, few), strict=True):
            for number, sample in enumerate(samples, 1):
                yield f"{source.source}:{number}", sample
        return
    for _, pairs in conversations(reading, spec):
        for row, joined in pairs[:n]:
            samples, _ = render(chat, spec, row, joined)
            for sample in samples:
                long = f" (longer than max_length={spec.max_length})" if sample.tokens > spec.max_length else ""
                yield row.where + long, sample


def most_tokens_of(row: Mapping[str, Any]) -> int:
    """The most tokens that a row may have, by its bytes."""
    turns = row.get("messages") or [{"content": row.get("prompt")}]
    return most_tokens([*turns, {"content": row.get("response")}], row.get("tools"))


def _long_of_source(reading: Reading, source: DataSource, rows: Rows, spec: Sft, chat: ChatFormat) -> int:
    """How many rows of a source are skipped as too long. Raises DataError as `long_rows`."""
    bad, numbers, seed = BadRows(source), count(1), row_seed(reading, source)
    for row, where in rows:
        number = next(numbers)
        tokens = 0
        if most_tokens_of(row) > spec.max_length:
            made = example(row, source, where, number, seed)
            tokens = max(sample.tokens for sample in render(chat, spec, made, made)[0])
        if tokens > spec.max_length:
            bad.met(too_long(tokens, spec, where))
        else:
            bad.rows += 1
    bad.settle()
    return bad.skipped
