"""Rows on disk: Parquet, one file an artifact; they come back as they were written.

A column is of one Arrow type where that gives every value back. One that Arrow refuses or would change (5 beside "x"
or 2.5, {}, 2**70, half a surrogate pair) is written as JSON, and its name stands in the schema's metadata under
`posttrain.json`. Fields that are None are fields that a row lacks, and stay lacking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.errors import DataError

FILE = "data.parquet"
JSON_COLUMNS = b"posttrain.json"


def write_rows(folder: Path, rows: Sequence[dict[str, Any]], name: str = FILE) -> Path:
    """Write `rows` to `folder/name`. No value makes it fail: it is called when all the work is done."""
    folder.mkdir(parents=True, exist_ok=True)
    columns, as_json = {}, []
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(column) for row in rows]
        array = _arrow(values)
        if array is None:
            array = pa.array([None if v is None else _json(v) for v in values], pa.string())
            as_json.append(column)
        columns[column] = array
    table = pa.table(columns)
    if as_json:
        table = table.replace_schema_metadata({JSON_COLUMNS: json.dumps(as_json).encode()})
    path = folder / name
    pq.write_table(table, path)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read all rows; None fields are left out, at every depth (Parquet fills structs up with them).

    Raises:
        DataError: the file isn't there, or is no whole Parquet file.
    """
    return list(iter_rows(path))


def iter_rows(path: Path, batch: int = 4096) -> Iterator[dict[str, Any]]:
    """`read_rows`, of which a batch is in memory at a time."""
    try:
        with pq.ParquetFile(path) as file:
            as_json = json.loads((file.schema_arrow.metadata or {}).get(JSON_COLUMNS, b"[]"))
            for part in file.iter_batches(batch_size=batch):
                for row in part.to_pylist():
                    row = _without_none(row)
                    for column in as_json:
                        if column in row:
                            row[column] = json.loads(row[column])
                    yield row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"can't be read as Parquet: {reason}", where=str(path), fix="write it anew: it may be cut off"
        ) from None


def _arrow(values: Sequence[Any]) -> Any:
    """The values as an array of one type; None where reading it would give anything else."""
    try:
        array = pa.array(values)
        # An empty struct can be built, and not be written.
        return None if _has_empty_struct(array.type) or not _same(values, _without_none(array.to_pylist())) else array
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _json(value: Any) -> str:
    """As JSON, in ASCII: Arrow's strings hold no lone surrogates. What JSON has no word for becomes its text."""
    return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))


def _has_empty_struct(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_list(kind)) and _has_empty_struct(kind.value_type)


def _same(written: Any, read: Any) -> bool:
    """Whether `read` is what was `written`: 5 is neither 5.0 nor True; a tuple comes back as a list; nan is nan."""
    if isinstance(written, list | tuple):
        return isinstance(read, list) and len(written) == len(read) and all(map(_same, written, read))
    if isinstance(written, dict):
        return (
            isinstance(read, dict) and written.keys() == read.keys() and all(_same(written[k], read[k]) for k in read)
        )
    if not isinstance(written, type(read)) or isinstance(written, bool) != isinstance(read, bool):
        return False
    return bool(written == read) or (written != written and read != read)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value


def write_stream(
    folder: Path, rows: Callable[[], Iterable[dict[str, Any]]], name: str = FILE, batch: int = 20_000
) -> int:
    """Write rows that needn't fit in memory; `rows` is called twice. Returns how many there are.

    Up to `batch` rows are written as `write_rows` does. Of more, columns that hold one kind of plain value, or plain
    messages, are of that type; all others are JSON.
    """
    first = list(islice(rows(), batch + 1))
    if len(first) <= batch:
        write_rows(folder, first, name)
        return len(first)
    kinds = _kinds(rows())
    folder.mkdir(parents=True, exist_ok=True)
    source, count = iter(rows()), 0
    with pq.ParquetWriter(folder / name, _schema(kinds)) as writer:
        while part := list(islice(source, batch)):
            count += len(part)
            writer.write_table(_typed(part, kinds))
    return count


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of some rows of a data set, whose columns are of the types that these rows alone would have."""

    path: Path
    rows: int
    kinds: Mapping[str, str]


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> Part:
    """Write some rows of a data set, for `join_parts`."""
    kinds = _kinds(rows)
    pq.write_table(_typed(rows, kinds), path)
    return Part(path=path, rows=len(rows), kinds=kinds)


def join_parts(folder: Path, parts: Sequence[Part], name: str = FILE) -> None:
    """Write the rows of all parts as one file, typed as `write_stream` types them; the parts are deleted."""
    kinds: dict[str, str] = {}
    for part in parts:
        for column, kind in part.kinds.items():
            kinds[column] = kind if kinds.setdefault(column, kind) == kind else "json"
    folder.mkdir(parents=True, exist_ok=True)
    schema = _schema(kinds)
    with pq.ParquetWriter(folder / name, schema) as writer:
        for part in parts:
            table = pq.read_table(part.path)
            columns = {column: _as_kind(table, column, part.kinds.get(column), kind) for column, kind in kinds.items()}
            if part.rows:
                writer.write_table(pa.table(columns, schema=schema))
            part.path.unlink()


def _as_kind(table: Any, column: str, old: str | None, kind: str) -> Any:
    if old is None:
        return pa.nulls(table.num_rows, _TYPES[kind])
    if old == kind:
        return table[column]
    return pa.array([None if v is None else _json(v) for v in table[column].to_pylist()], _TYPES[kind])


def _kinds(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The kind of each column that holds something; `json` where its values are of several."""
    kinds: dict[str, str] = {}
    for row in rows:
        for column, value in row.items():
            if value is not None and kinds.get(column) != "json":
                kind = _kind(value)
                kinds[column] = kind if kinds.setdefault(column, kind) == kind else "json"
    return kinds


def _schema(kinds: Mapping[str, str]) -> Any:
    schema = pa.schema([pa.field(column, _TYPES[kind]) for column, kind in kinds.items()])
    as_json = [column for column, kind in kinds.items() if kind == "json"]
    return schema.with_metadata({JSON_COLUMNS: json.dumps(as_json).encode()} if as_json else None)


def _typed(rows: Sequence[dict[str, Any]], kinds: Mapping[str, str]) -> Any:
    columns = {}
    for column, kind in kinds.items():
        values = [row.get(column) for row in rows]
        values = [None if v is None else _json(v) for v in values] if kind == "json" else values
        columns[column] = pa.array(values, _TYPES[kind])
    return pa.table(columns, schema=_schema(kinds))


_TYPES: Mapping[str, Any] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "json": pa.string(),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
}


def _kind(value: Any) -> str:
    """The name of the type that gives `value` back as it is."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "str" if value.isascii() or _encodes(value) else "json"
    if isinstance(value, list) and value and all(_is_plain_message(v) for v in value):
        return "messages"
    return "json"


def _is_plain_message(value: Any) -> bool:
    plain = isinstance(value, dict) and value.keys() == {"role", "content"}
    return plain and all(isinstance(v, str) and _encodes(v) for v in value.values())


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
