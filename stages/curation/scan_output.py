"""The rows that a scan leaves, written as one file: shard by shard, by the processes of a `ShardPool`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.stages.actors.shard_pool import ShardPool
from posttrain.stages.curation.scan_shard import shard_path
from posttrain.stages.data.store import Part, join_parts, write_part, write_rows
from posttrain.types import Row

IN_MEMORY = 20_000
"""So many rows are written as `write_rows` does, which finds richer types."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a shard is kept, by place in it, and what is known of it by now."""

    number: int
    places: NDArray[np.int64]
    renamed: Mapping[int, str]
    """What makes an id unique that several rows have."""
    rates: Mapping[int, float] = field(default_factory=dict)
    domains: Mapping[int, str] = field(default_factory=dict)
    """Those that no rule names."""


@dataclass(frozen=True, kw_only=True)
class KeepShard:
    """Writes what is kept of a shard as a part of the data set."""

    folder: Path

    def rows(self, selection: Selection) -> Iterator[Row]:
        """The kept rows of one shard."""
        table = pq.read_table(shard_path(self.folder, selection.number), columns=["row", "domain"])
        chosen = table.take(selection.places)
        for place, text, domain in zip(
            selection.places.tolist(), chosen["row"].to_pylist(), chosen["domain"].to_pylist(), strict=True
        ):
            row: Row = json.loads(text)
            row.pop("_environment", None)
            if place in selection.renamed:
                row["id"] = f"{row['id']}.{selection.renamed[place]}"
            row["domain"] = domain or selection.domains.get(place, "")
            if place in selection.rates:
                row["pass_rate"] = selection.rates[place]
            yield row

    def __call__(self, selection: Selection) -> Part:
        """See the class."""
        return write_part(self.folder / f"kept-{selection.number:06d}.parquet", list(self.rows(selection)))


def write_kept(
    folder: Path,
    work: KeepShard,
    selections: Iterable[Selection],
    rows: int,
    pool: ShardPool,
    done: Callable[[int], None],
) -> None:
    """Write the `rows` rows of all selections to `folder`; `done` hears of each shard's."""
    if rows <= IN_MEMORY:
        write_rows(folder, [row for selection in selections for row in work.rows(selection)])
        done(rows)
        return

    def parts() -> Iterator[Part]:
        for part in pool.map(work, selections):
            done(part.rows)
            yield part

    join_parts(folder, list(parts()))
