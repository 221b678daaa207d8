"""The first pass over queries, a shard at a time: what each row alone decides, and the hashes that decide the rest.

A shard is a Parquet file of rows with their reasons; hashes are appended to one file a kind. In memory is one shard.
`state.json` says how many shards are whole: an interrupted stage reads on behind them, and cuts off half-written
hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.stages.data.content import content
from posttrain.stages.data.funnel import asked_text
from posttrain.stages.data.minhash import BANDS, PERMUTATIONS, bands, numbers, shingles, signatures, tokens
from posttrain.types import Prompt

SHARD = 20_000
_ONE = ("content", "id", "numbers")
Row = dict[str, Any]


def hash64(text: str) -> int:
    """Eight bytes of BLAKE2b: among a million texts, two share them with probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a shard."""

    place: int
    """Its number among all rows, from 0."""
    row: Row
    prompt: str
    reason: str | None
    """Why it is dropped, with its detail; None where nothing spoke against it alone."""


class Scan:
    """The shards in `folder`, made by `fill` and read by the passes behind it."""

    def __init__(self, folder: Path, *, ngram: int) -> None:
        self.folder, self._ngram = folder, ngram
        state = folder / "state.json"
        known = json.loads(state.read_text()) if state.is_file() else {"shards": 0, "rows": 0}
        self.shards, self.rows = int(known["shards"]), int(known["rows"])

    def fill(
        self,
        prompts: Iterable[Prompt],
        judge: Callable[[Sequence[Prompt]], list[str | None]],
        as_row: Callable[[Prompt], Row],
        done: Callable[[int], None],
    ) -> None:
        """Scan all `prompts`; `judge` gives the reasons against a shard's, `done` hears of its rows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._cut()
        source = iter(prompts)
        if skipped := sum(1 for _ in islice(source, self.rows)):
            done(skipped)
        while part := list(islice(source, SHARD)):
            self._shard(part, judge, as_row)
            done(len(part))

    def column(self, name: str) -> NDArray[np.uint64]:
        """One of `content`, `id`, `numbers` or `band-07`: a hash a row, on disk."""
        return self._mapped(name, np.uint64, ())

    def signatures(self) -> NDArray[np.uint32]:
        """The MinHash signatures, on disk; zeros for rows with a reason."""
        return self._mapped("signatures", np.uint32, (PERMUTATIONS,))

    def alive(self) -> NDArray[np.bool_]:
        """Which rows nothing speaks against so far."""
        return np.fromfile(self.folder / "alive", np.uint8).astype(bool)

    def entries(self) -> Iterator[Entry]:
        """All rows, in order."""
        place = 0
        for number in range(self.shards):
            with pq.ParquetFile(self._path(number)) as file:
                for batch in file.iter_batches(batch_size=2048):
                    for values in batch.to_pylist():
                        yield Entry(
                            place=place, row=json.loads(values["row"]), prompt=values["prompt"], reason=values["reason"]
                        )
                        place += 1

    def _shard(
        self,
        prompts: list[Prompt],
        judge: Callable[[Sequence[Prompt]], list[str | None]],
        as_row: Callable[[Prompt], Row],
    ) -> None:
        reasons = judge(prompts)
        asked = [asked_text(prompt.messages) for prompt in prompts]
        keys = [content(prompt) for prompt in prompts]
        alive = np.array([reason is None for reason in reasons])
        made = np.zeros((len(prompts), PERMUTATIONS), np.uint32)
        made[alive] = signatures([shingles(tokens(asked[i]), self._ngram) for i in np.flatnonzero(alive).tolist()])
        columns = {
            "content": np.array([hash64(key) for key in keys], np.uint64),
            "id": np.array([hash64(prompt.id) for prompt in prompts], np.uint64),
            "numbers": np.array([hash64(numbers(text)) for text in asked], np.uint64),
        }
        table = pa.table(
            {
                "row": pa.array([json.dumps(as_row(prompt), default=str) for prompt in prompts], pa.string()),
                "prompt": pa.array([text.encode("utf-8", "replace").decode() for text in asked], pa.string()),
                "reason": pa.array(reasons, pa.string()),
            }
        )
        pq.write_table(table, self._path(self.shards), compression="zstd")
        hashed = bands(made)
        for name, values in (*columns.items(), *((f"band-{i:02d}", hashed[:, i]) for i in range(BANDS))):
            self._append(name, values)
        self._append("signatures", made)
        self._append("alive", alive.astype(np.uint8))
        self.shards, self.rows = self.shards + 1, self.rows + len(prompts)
        temporary = self.folder / "state.tmp"
        temporary.write_text(json.dumps({"shards": self.shards, "rows": self.rows}))
        temporary.replace(self.folder / "state.json")

    def _append(self, name: str, values: NDArray[Any]) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(np.ascontiguousarray(values).tobytes())

    def _cut(self) -> None:
        """What a killed run appended behind its last whole shard isn't part of anything."""
        sizes = {"signatures": 4 * PERMUTATIONS, "alive": 1}
        names = (*_ONE, "signatures", "alive", *(f"band-{i:02d}" for i in range(BANDS)))
        for name in names:
            path = self.folder / name
            if path.exists():
                os.truncate(path, self.rows * sizes.get(name, 8))

    def _mapped(self, name: str, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        if not self.rows:
            return np.zeros((0, *shape), kind)
        return np.memmap(self.folder / name, kind, "r", shape=(self.rows, *shape))

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.parquet"
