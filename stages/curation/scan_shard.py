"""One shard of queries: judged, hashed and written to disk, by a process of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.configs.schema import Domains
from posttrain.folders import whole_file
from posttrain.stages.curation.domains import domain_of
from posttrain.stages.curation.row_rules import RowJudge
from posttrain.stages.data.content import content, hash64
from posttrain.stages.data.funnel import asked_text
from posttrain.stages.data.minhash import BANDS, PERMUTATIONS, bands, numbers, shingles, signatures, tokens
from posttrain.types import Prompt, Row

Hashes = Mapping[str, NDArray[Any]]
"""What `Scan` appends to its files, by name."""


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:06d}.parquet"


@dataclass(frozen=True, kw_only=True)
class ScanShard:
    """Writes a shard's file and gives its hashes back."""

    folder: Path
    judge: RowJudge
    domains: Domains
    ngram: int

    def __call__(self, task: tuple[int, list[Prompt]]) -> Hashes:
        """See the class."""
        number, prompts = task
        asked = [asked_text(prompt.messages) for prompt in prompts]
        words = {text: tokens(text) for text in asked}
        reasons = self.judge(prompts, lambda text: words.get(text) or tokens(text))
        alive = np.array([reason is None for reason in reasons])
        made = np.zeros((len(prompts), PERMUTATIONS), np.uint32)
        made[alive] = signatures([shingles(words[asked[i]], self.ngram) for i in np.flatnonzero(alive).tolist()])
        self._write(number, prompts, asked, reasons)
        hashed = bands(made)
        return {
            "content": np.array([hash64(content(prompt)) for prompt in prompts], np.uint64),
            "id": np.array([hash64(prompt.id) for prompt in prompts], np.uint64),
            "numbers": np.array([hash64(numbers(text)) for text in asked], np.uint64),
            "alive": alive.astype(np.uint8),
            "signatures": made,
            **{f"band-{i:02d}": np.ascontiguousarray(hashed[:, i]) for i in range(BANDS)},
        }

    def _write(self, number: int, prompts: list[Prompt], asked: list[str], reasons: list[str | None]) -> None:
        columns: dict[str, list[Any]] = {
            "row": [json.dumps(_stored(prompt), default=str) for prompt in prompts],
            "id": [_encodable(prompt.id) for prompt in prompts],
            "prompt": [_encodable(text) for text in asked],
            "reason": reasons,
            "domain": [_encodable(domain_of(prompt, self.domains)) for prompt in prompts],
        }
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        with whole_file(shard_path(self.folder, number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def as_row(prompt: Prompt) -> Row:
    """A prompt as a row that `load_rows` reads back."""
    row: Row = json.loads(json.dumps(_stored(prompt), default=str))
    return row


def as_prompt(place: int, stored: Row) -> Prompt:
    """The prompt that a shard's row was made of; its place makes the id unique for the time being."""
    row = dict(stored)
    environment = row.pop("_environment", "")
    known = {name: row.pop(name) for name in ("id", "messages", "task", "domain", "mode")}
    messages = tuple(known.pop("messages"))
    return Prompt(**{**known, "id": f"{known['id']}@{place}"}, messages=messages, columns=row, environment=environment)


def _stored(prompt: Prompt) -> Row:
    row: Row = {**prompt.columns, "id": prompt.id, "messages": [dict(m) for m in prompt.messages]}
    row |= {"task": prompt.task, "domain": prompt.domain, "mode": prompt.mode}
    return {**row, "_environment": prompt.environment} if prompt.environment else row


def _encodable(text: str) -> str:
    """Arrow's strings hold no lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
