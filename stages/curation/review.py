"""Queries that always failed, for a person: review.jsonl, one query a line, with its candidates.

The person writes `response`, or sets `accept` to the number of a candidate, and names the file in `reviewed:` of the
same stage. Lines that they leave as they are change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import DataError

FILE = "review.jsonl"


def review_row(row: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A line of the file: the query with its columns, what was tried, and the two fields to fill in."""
    tried = [{"number": number, **candidate} for number, candidate in enumerate(candidates)]
    return {**row, "candidates": tried, "accept": None, "response": None}


def write_review(folder: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write the file; nothing if no query failed. Returns the number of lines."""
    lines = [json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") for row in rows]
    if lines:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


def decided(row: Mapping[str, Any], where: str) -> str | None:
    """The response that a person wrote or chose; None if they left the line as it was.

    Raises:
        DataError: both are given, or there is no such candidate.
    """
    written, accepted = row.get("response"), row.get("accept")
    if written is not None and accepted is not None:
        raise DataError("a line has `accept` and `response`", where=where, fix="leave one of them null")
    if written is not None:
        if not isinstance(written, str) or not written.strip():
            raise DataError("`response` must be a text", where=where, fix="write it, or leave it null")
        return written
    if accepted is None:
        return None
    candidates = row.get("candidates") or []
    if isinstance(accepted, bool) or not isinstance(accepted, int) or not 0 <= accepted < len(candidates):
        raise DataError(
            f"`accept` is {accepted!r}, and there are {len(candidates)} candidates", where=where,
            fix="set it to a candidate's number, from 0 on",
        )  # fmt: skip
    return str(candidates[accepted]["response"])
