"""Rows out of files, one at a time, each with its place; and what is done with those that are malformed.

A JSON line is malformed if it isn't UTF-8, isn't an object, holds half a surrogate pair, or is longer than any query:
whatever a model's tokenizer or the disk would refuse hours later.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.stages.data.store import iter_rows
from posttrain.types import Row

Placed = tuple[str, Row | DataError]
"""A place, and the row that stands there or what is wrong with it."""

LONGEST_LINE = 4 << 20
"""Bytes: about a million tokens, more than any context takes."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SHOWN = 3


@dataclass
class BadRows:
    """Counts a source's malformed rows: the first one is an error, or they are skipped up to a share."""

    source: PromptSource
    rows: int = 0
    errors: list[DataError] = field(default_factory=list)
    skipped: int = 0

    def met(self, error: DataError) -> None:
        """Take note of a malformed row. Raises it if the recipe skips none."""
        if self.source.on_bad_row == "refuse":
            raise DataError(error.what, where=error.where, fix=_fix(error))
        self.skipped += 1
        self.errors.append(error)
        del self.errors[1000:]  # a person reads the first ones

    def turned_out(self, error: DataError) -> None:
        """A row that was counted as good isn't. Raises as `met`."""
        self.rows -= 1
        self.met(error)

    def settle(self) -> None:
        """All rows are read. Raises DataError if more are malformed than the recipe allows."""
        total = self.rows + self.skipped
        if total and self.skipped > self.source.max_bad_share * total:
            raise DataError(
                f"{self.skipped} of {total} rows are malformed or too long, "
                f"more than max_bad_share={self.source.max_bad_share:g}: "
                + "; ".join(f"{e.where}: {e.what}" for e in self.errors[:_SHOWN]),
                where=self.source.source,
                fix="fix the file, or raise max_bad_share if they may go",
            )

    def __str__(self) -> str:
        first = self.errors[0]
        skipped = f"skipped {self.skipped} malformed or too long rows"
        return f"{self.source.source}: {skipped}; the first: {first.where}: {first.what}"


def _fix(error: DataError) -> str:
    skip = "skip such rows with on_bad_row: skip"
    return f"{error.fix}; or {skip}" if error.fix else f"fix the row, or {skip}"


def file_rows(path: Path) -> Iterator[Placed]:
    """The rows of a .jsonl or .parquet file, with their places.

    Raises:
        DataError: there is no such file, or it can't be read at all.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="paths in a recipe start at the recipe's folder")
    if path.suffix == ".parquet":
        yield from ((f"{path}:{number}", row) for number, row in enumerate(iter_rows(path), 1))
    elif path.suffix == ".jsonl":
        yield from _json_rows(path)
    else:
        raise DataError(f"can't read {path.suffix!r} files", where=str(path), fix="use .jsonl or .parquet")


def row_count(path: Path) -> int:
    """How many rows a file has, for a progress bar: the lines of a .jsonl file; 0 where nobody knows."""
    try:
        if path.suffix == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                return sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))
    except (OSError, pa.ArrowException):  # whoever reads the rows tells what is wrong
        pass
    return 0


def _json_rows(path: Path) -> Iterator[Placed]:
    blank: list[str] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                if number == 1:  # the mark that some editors put in front
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line.strip():  # at the end of a file, it means nothing
                    blank.append(where)
                    continue
                yield from ((place, DataError("an empty line", where=place, fix="delete it")) for place in blank)
                blank.clear()
                try:
                    yield where, _json_row(line, where)
                except DataError as error:
                    yield where, error
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", where=str(path)) from None


def _json_row(line: bytes, where: str) -> Row:
    if len(line) > LONGEST_LINE:
        size = f"{len(line) / (1 << 20):.1f} MiB"
        raise DataError(f"a row of {size}, more than {LONGEST_LINE >> 20} MiB", where=where, fix="cut or delete it")
    try:
        row = json.loads(line.decode())
        if _SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{line[error.start]:02x}", where=where,
            fix="convert the file, e.g. iconv -f latin1 -t utf-8",
        ) from None  # fmt: skip
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(
            f"half a surrogate pair, {half}: a character that some program cut in two", where=where
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} (column {error.colno})", where=where) from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists in lists in lists
        raise DataError(f"can't be read: {error}", where=where) from None
    if not isinstance(row, dict):
        raise DataError(f"a row is an object, this is {type(row).__name__}", where=where)
    return row
