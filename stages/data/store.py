"""Rows on disk: Parquet, one file an artifact; fields that a row lacks stay lacking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FILE = "data.parquet"


def write_rows(folder: Path, rows: Sequence[dict[str, Any]], name: str = FILE) -> Path:
    """Write `rows` to `folder/name`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    path = folder / name
    pq.write_table(table, path)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read all rows; None fields are left out, at every depth (Parquet fills structs up with them)."""
    return [_without_none(row) for row in pq.read_table(path).to_pylist()]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
