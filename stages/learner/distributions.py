"""A teacher's next-token distributions on disk: written once, read by every later run.

Parquet, a row a sequence, in files of at most ROWS_A_FILE. `ids` and `mask` are the sequence as it was sampled and its
targets; `sizes` says how many entries each target has, `entries` holds them one after the other:

    top_k   7 bytes: id (4, little endian), log-probability in 1/2048 nats from 0 down (3)
    draws   3 bytes: id in 18 bits, count in 6 (Sparse Logit Sampling, 2503.16870, has 17 and 7: too few for Qwen3)

A file's metadata names the form, the number of draws, and the fingerprint of the tokenizer and template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.errors import DataError
from posttrain.types import Sample

FOLDER = "logits"
ROWS_A_FILE = 4096
META = b"posttrain.logits"
STEPS = 2048
"""Log-probabilities are kept to 1/2048 nats, down to -8191 nats."""
_ID_BITS = 18
_MOST_IDS, _MOST_COUNT = 1 << _ID_BITS, 1 << 6


@dataclass(frozen=True, kw_only=True)
class DistributionForm:
    """How a target's distribution is kept: its k likeliest ids, or ids drawn from it."""

    kind: Literal["top_k", "draws"]
    count: int


def encode(
    form: DistributionForm, ids: NDArray[np.int32], values: NDArray[np.float32]
) -> tuple[bytes, NDArray[np.uint16]]:
    """The entries of targets [S, k] and how many each has.

    `values`: log-probabilities, or shares of the draws; -inf where a target has fewer (shares of 0 are left out too).

    Raises:
        DataError: an id or a count doesn't fit.
    """
    kept = values > -np.inf if form.kind == "top_k" else values > 0
    sizes = kept.sum(1).astype(np.uint16)
    flat_ids, flat = ids[kept].astype(np.int64), values[kept].astype(np.float64)
    if form.kind == "top_k":
        levels = np.minimum(np.round(-flat * STEPS), (1 << 24) - 1).astype(np.int64)
        return _packed(flat_ids | levels << 32, 7), sizes
    counts = np.round(flat * form.count).astype(np.int64)
    if len(flat_ids) and (flat_ids.max() >= _MOST_IDS or counts.max() >= _MOST_COUNT):
        raise DataError(
            f"an entry of 3 bytes holds ids under {_MOST_IDS} and counts under {_MOST_COUNT}",
            fix="keep top_k, or fewer draws",
        )
    return _packed(flat_ids | counts << _ID_BITS, 3), sizes


def decode(
    form: DistributionForm, entries: bytes, sizes: NDArray[np.uint16]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """What `encode` was given: ids [S, k] and values [S, k], as wide as the widest target."""
    number = _unpacked(entries, 7 if form.kind == "top_k" else 3)
    width = int(sizes.max(initial=0))
    where = np.arange(width)[None] < sizes[:, None]
    ids = np.zeros(where.shape, np.int32)
    if form.kind == "top_k":
        values = np.full(where.shape, -np.inf, np.float32)
        ids[where], values[where] = number & 0xFFFFFFFF, -(number >> 32) / STEPS
        return ids, values
    shares = np.zeros(where.shape, np.float32)
    ids[where], shares[where] = number & (_MOST_IDS - 1), (number >> _ID_BITS) / form.count
    return ids, shares


def merged_draws(drawn: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Drawn ids [S, draws] as distinct ids [S, k] with their shares; 0 where a target has fewer.

    >>> merged_draws(np.array([[5, 9, 5, 5]]))
    (array([[5, 9]], dtype=int32), array([[0.75, 0.25]], dtype=float32))
    """
    ordered = np.sort(drawn, axis=1)
    first = np.ones_like(ordered, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = first.cumsum(1) - 1
    width = int(place.max(initial=-1)) + 1
    counts = np.zeros((len(drawn), width), np.float32)
    rows = np.broadcast_to(np.arange(len(drawn))[:, None], drawn.shape)
    np.add.at(counts, (rows, place), 1.0)
    ids = np.zeros((len(drawn), width), np.int32)
    ids[rows[first], place[first]] = ordered[first]
    return ids, counts / drawn.shape[1]


def write_stored(
    folder: Path, form: DistributionForm, samples: Sequence[Sample], fingerprint: Mapping[str, Any], first: int = 0
) -> None:
    """Write samples with their stored targets into `folder`, in files numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {META: json.dumps({"kind": form.kind, "count": form.count, "fingerprint": dict(fingerprint)}).encode()}
    for number, start in enumerate(range(0, len(samples), ROWS_A_FILE), first):
        rows = [_row(form, s) for s in samples[start : start + ROWS_A_FILE]]
        table = pa.Table.from_pylist(rows, schema=_SCHEMA).replace_schema_metadata(meta)
        pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")


def read_stored(folder: Path) -> tuple[DistributionForm, dict[str, Any], list[Sample]]:
    """The form, the fingerprint and the samples of a folder.

    Raises:
        DataError: there are none, or two files are of different forms.
    """
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise DataError("there are no stored distributions", where=str(folder), fix="give the sample stage `store:`")
    found: list[tuple[DistributionForm, dict[str, Any]]] = []
    samples: list[Sample] = []
    for path in paths:
        table = pq.read_table(path)
        meta = json.loads((table.schema.metadata or {}).get(META, b"{}"))
        if not meta:
            raise DataError("the file doesn't say what it holds", where=str(path))
        found.append((DistributionForm(kind=meta["kind"], count=meta["count"]), meta["fingerprint"]))
        if found[-1] != found[0]:
            raise DataError("it isn't of the form, tokenizer and template of the files before it", where=str(path))
        samples += list(_samples(found[0][0], table))
    return *found[0], samples


_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.int8())),
        ("sizes", pa.list_(pa.uint16())),
        ("entries", pa.binary()),
    ]
)


def _row(form: DistributionForm, sample: Sample) -> dict[str, Any]:
    assert sample.teacher_ids is not None
    assert sample.teacher_values is not None
    targets = sample.loss_mask > 0
    entries, sizes = encode(form, sample.teacher_ids[targets], sample.teacher_values[targets])
    return {"ids": sample.ids, "mask": targets.astype(np.int8), "sizes": sizes, "entries": entries}


def _samples(form: DistributionForm, table: pa.Table) -> Iterator[Sample]:
    for row in table.to_pylist():
        ids, mask = np.array(row["ids"], np.int64), np.array(row["mask"], np.float32)
        near, values = decode(form, row["entries"], np.array(row["sizes"], np.uint16))
        all_ids = np.zeros((len(ids), near.shape[1]), np.int32)
        all_values = np.full((len(ids), near.shape[1]), -np.inf, np.float32)
        all_ids[mask > 0], all_values[mask > 0] = near, values
        yield Sample(ids=ids, loss_mask=mask, teacher_ids=all_ids, teacher_values=all_values)


def _packed(numbers: NDArray[np.int64], size: int) -> bytes:
    return numbers.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size].tobytes()


def _unpacked(data: bytes, size: int) -> NDArray[np.int64]:
    raw = np.frombuffer(data, np.uint8).reshape(-1, size)
    whole = np.zeros((len(raw), 8), np.uint8)
    whole[:, :size] = raw
    return whole.view("<u8")[:, 0].astype(np.int64)
