"""Queries on disk, a shard at a time: rows with what each alone decides, and the hashes that decide the rest.

A shard is a Parquet file, made by whoever of a `ShardPool` gets it (`scan_shard`); its hashes are appended to one file
a kind, here and in the order of the shards. `shards.json` says how many shards are whole: an interrupted stage reads on
behind them, and cuts off half-written hashes. In memory are the shards that are under way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.folders import write_text
from posttrain.stages.actors.shard_pool import ShardPool
from posttrain.stages.curation.scan_shard import Hashes, shard_path
from posttrain.stages.data.minhash import BANDS, PERMUTATIONS
from posttrain.types import Prompt, Row

SHARD = 10_000
STATE = "shards.json"
_SIZES = {"content": 8, "id": 8, "numbers": 8, "alive": 1, "signatures": 4 * PERMUTATIONS}
_SIZES |= {f"band-{i:02d}": 8 for i in range(BANDS)}

Task = tuple[int, list[Prompt]]
"""A shard's number and its queries."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a shard."""

    place: int
    """Its number among all rows, from 0."""
    row: Row


class Scan:
    """The shards in `folder`, made by `fill` and read by the passes behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        state = folder / STATE
        known = json.loads(state.read_text()) if state.is_file() else {"rows": []}
        self.sizes: list[int] = list(known["rows"])
        """The rows of each shard."""

    @property
    def rows(self) -> int:
        return sum(self.sizes)

    def fill(
        self,
        prompts: Iterable[Prompt],
        work: Callable[[Task], Hashes],
        pool: ShardPool,
        done: Callable[[int], None],
    ) -> None:
        """Scan all `prompts` that aren't yet in a shard; `done` hears of each shard's rows once they are on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._cut()
        source = iter(prompts)
        if skipped := sum(1 for _ in islice(source, self.rows)):
            done(skipped)

        def tasks(number: int) -> Iterator[Task]:
            while part := list(islice(source, SHARD)):
                yield number, part
                number += 1

        for hashes in pool.map(work, tasks(len(self.sizes))):
            self._commit(hashes)
            done(self.sizes[-1])

    def column(self, name: str) -> NDArray[np.uint64]:
        """One of `content`, `id`, `numbers` or `band-07`: a hash a row, on disk."""
        return self._mapped(name, np.uint64, ())

    def signatures(self) -> NDArray[np.uint32]:
        """The MinHash signatures, on disk; zeros for rows with a reason."""
        return self._mapped("signatures", np.uint32, (PERMUTATIONS,))

    def alive(self) -> NDArray[np.bool_]:
        """Which rows nothing speaks against so far."""
        return np.fromfile(self.folder / "alive", np.uint8).astype(bool)

    def shards(self) -> Iterator[tuple[int, slice]]:
        """The number of each shard, and the places of its rows."""
        start = 0
        for number, size in enumerate(self.sizes):
            yield number, slice(start, start + size)
            start += size

    def texts(self, number: int, column: str) -> list[str | None]:
        """A column of a shard: `id`, `prompt`, `reason` or `domain`."""
        values: list[str | None] = pq.read_table(shard_path(self.folder, number), columns=[column])[column].to_pylist()
        return values

    def entries(self, wanted: NDArray[np.bool_]) -> Iterator[Entry]:
        """The rows that are `wanted`, in order."""
        for number, places in self.shards():
            if wanted[places].any():
                rows = self.texts(number, "row")
                for i in np.flatnonzero(wanted[places]).tolist():
                    yield Entry(place=places.start + i, row=json.loads(rows[i] or ""))

    def _commit(self, hashes: Hashes) -> None:
        """A shard counts once its hashes are on disk: the state is written last."""
        for name in _SIZES:
            with (self.folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(hashes[name]).data)
                file.flush()
                os.fsync(file.fileno())
        self.sizes.append(len(hashes["alive"]))
        write_text(self.folder / STATE, json.dumps({"rows": self.sizes}))

    def _cut(self) -> None:
        """What a killed run appended behind its last whole shard isn't part of anything."""
        for name, size in _SIZES.items():
            path = self.folder / name
            if path.exists():
                os.truncate(path, self.rows * size)

    def _mapped(self, name: str, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        if not self.rows:
            return np.zeros((0, *shape), kind)
        return np.memmap(self.folder / name, kind, "r", shape=(self.rows, *shape))
