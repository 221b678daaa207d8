"""Query curation (report, 4.1 and 4.2): what can be verified, isn't used yet, isn't kept for evaluation, needs
thinking, can be learned, and is spread over domains; each dropped row with its reason.

Passes, each over shards on disk: reserve a validation split; rules, provenance and decontamination a row (`scan`),
over workers; duplicates (`near_duplicates`); a judge, a model without thinking and a model's pass rate, batch by batch
(`measure`); the balance of domains and the limit, the hardest first; what is kept, over workers again (`kept`).
Interrupted, it goes on behind its last shard or batch.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.configs.schema import Curate, PromptSource
from posttrain.errors import DataError
from posttrain.rewards.base import needed_columns
from posttrain.stages.actors.shard_pool import ShardPool
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.curation.domains import ordered, over_the_balance
from posttrain.stages.curation.model_passes import Measured, measure
from posttrain.stages.curation.near_duplicates import exact_duplicates, near_duplicates
from posttrain.stages.curation.row_rules import RESERVED, USED, RowJudge, marks
from posttrain.stages.curation.scan import Scan
from posttrain.stages.curation.scan_output import KeepShard, Selection, write_kept
from posttrain.stages.curation.scan_shard import ScanShard, as_prompt, as_row
from posttrain.stages.curation.verdicts import Verdicts
from posttrain.stages.data.content import content
from posttrain.stages.data.files import BadRows
from posttrain.stages.data.funnel import DROPPED, Funnel, split_reason
from posttrain.stages.data.load import VALIDATION, derive_seed, expected_rows, load_all, prompt_maker, read
from posttrain.stages.data.store import write_rows, write_stream
from posttrain.types import Prompt, Row

MALFORMED, DUPLICATE, NEAR = "malformed", "duplicate", "near duplicate"
OVER_DOMAIN, OVER_LIMIT = "over the balance of its domain", "over the limit"


@dataclass(kw_only=True)
class _Found:
    """What the passes have found so far."""

    scan: Scan
    verdicts: Verdicts
    measured: Measured = field(default_factory=Measured)

    def left(self) -> NDArray[np.bool_]:
        """The rows that nothing speaks against."""
        return self.scan.alive() & ~self.verdicts.dropped


def run(context: StageContext) -> StageResult:
    """Write the kept prompts as a data set, and every drop with its reason beside it."""
    spec: Curate = context.spec
    queries = _Queries(context, spec)
    reserved = queries.reserve()
    with context.workers.shards() as pool:
        found = _scanned(context, spec, queries, reserved, pool)
        _duplicates(context, spec, found)
        left = found.left()
        found.measured = measure(context, spec, lambda: _prompts(found.scan, left))
        found.verdicts.say(found.measured.reasons)
        _balance(spec, found)
        result = _write(context, found, queries, pool)
    if spec.validation:
        write_rows(context.artifact_dir, [as_row(prompt) for prompt in reserved], VALIDATION)
    shutil.rmtree(context.dir / "scan", ignore_errors=True)
    return result


class _Queries:
    """All prompts of the stage, read anew for each pass; malformed rows are counted."""

    def __init__(self, context: StageContext, spec: Curate) -> None:
        self.context, self.spec = context, spec
        self.bad = [BadRows(source) for source in spec.prompts]
        self.expected = sum(expected_rows(source, context.locations) for source in spec.prompts)
        self._needed = {use.use: needed_columns(use, context.recipe_dir) for use in spec.rewards}
        used = (mark for source in spec.exclude for prompt in self._read(source) for mark in marks(prompt))
        self._used = frozenset(used)
        sets = zip(spec.held_out, load_all(context, spec.held_out), strict=True) if spec.held_out else ()
        self._held_out = [(source.source, prompts) for source, prompts in sets]

    def __iter__(self) -> Iterator[Prompt]:
        self.bad = [BadRows(source) for source in self.spec.prompts]
        for source, bad in zip(self.spec.prompts, self.bad, strict=True):
            yield from self._read(source, bad)

    def reserve(self) -> list[Prompt]:
        """The validation split: queries that could be kept, drawn by a hash of their content and the stage's seed."""
        if not self.spec.validation:
            return []
        judge = self.judge([])
        chosen: list[tuple[int, int, Prompt]] = []
        inside: set[int] = set()
        for number, prompt in enumerate(self):
            key = content(prompt)
            draw = derive_seed("validation", self.context.seed, self.context.name, key)
            full = len(chosen) == self.spec.validation
            if draw in inside or (full and draw >= -chosen[0][0]) or judge([prompt])[0]:
                continue
            inside.add(draw)
            last = heapq.heappushpop(chosen, (-draw, number, prompt)) if full else None
            if last is None:
                heapq.heappush(chosen, (-draw, number, prompt))
            else:
                inside.discard(-last[0])
        if len(chosen) < self.spec.validation:
            raise DataError(
                f"only {len(chosen)} queries can be reserved, not validation={self.spec.validation}",
                where=self.context.name, fix="lower `validation`, or give it more prompts",
            )  # fmt: skip
        return [prompt for *_, prompt in sorted(chosen, key=lambda item: item[1])]

    def judge(self, reserved: Sequence[Prompt]) -> RowJudge:
        """The reasons against queries that each of them alone decides, as a function."""
        return RowJudge(self.spec, self._needed, self._used, self._held_out, reserved)

    def _read(self, source: PromptSource, bad: BadRows | None = None) -> Iterator[Prompt]:
        make = prompt_maker(source)
        context = self.context
        for prompt in read(source, make, locations=context.locations, seed=context.seed, bad=bad):
            columns = {"origin": f"{source.source}#{prompt.id}", **prompt.columns}
            yield Prompt(**{**vars(prompt), "columns": columns})


def _scanned(
    context: StageContext, spec: Curate, queries: _Queries, reserved: Sequence[Prompt], pool: ShardPool
) -> _Found:
    scan = Scan(context.dir / "scan")
    work = ScanShard(
        folder=scan.folder, judge=queries.judge(reserved), domains=spec.domains, ngram=spec.deduplicate.ngram
    )
    context.progress.start(queries.expected, unit="prompt")
    scan.fill(queries, work, pool, partial(_shard_done, context, "rules"))
    return _Found(scan=scan, verdicts=Verdicts(scan.rows))


def _shard_done(context: StageContext, step: str, rows: int) -> None:
    context.progress.advance(rows, step)
    context.check_stop()


def _duplicates(context: StageContext, spec: Curate, found: _Found) -> None:
    """Drop the rows that are duplicates of one before them."""
    scan = found.scan
    places = np.flatnonzero(found.left())
    first = places[exact_duplicates(np.asarray(scan.column("content"))[places])] if len(places) else places
    repeated = places != first
    found.verdicts.repeat(places[repeated], first[repeated], DUPLICATE)
    alive = found.left()
    if spec.deduplicate.near is not None and alive.any():
        numbers = np.asarray(scan.column("numbers")) if spec.deduplicate.same_numbers else None
        roots = near_duplicates(
            lambda band: scan.column(f"band-{band:02d}"), scan.signatures(), numbers, alive, spec.deduplicate.near,
            progress=lambda band: _shard_done(context, "near duplicates", 0),
        )  # fmt: skip
        near = np.flatnonzero(alive & (roots != np.arange(len(roots))))
        found.verdicts.repeat(near, roots[near], NEAR)


def _prompts(scan: Scan, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Prompt]]:
    """The rows that are wanted, with their places; ids are unique."""
    return ((entry.place, as_prompt(entry.place, entry.row)) for entry in scan.entries(wanted))


def _balance(spec: Curate, found: _Found) -> None:
    """Drop what is over the balance of its domain, and over the limit."""
    left, rates = found.left(), found.measured.rates

    def domains() -> Iterator[tuple[int, str]]:
        for number, places in found.scan.shards():
            named = found.scan.texts(number, "domain")
            for i in np.flatnonzero(left[places]).tolist():
                yield places.start + i, named[i] or found.measured.domains.get(places.start + i, "")

    found.verdicts.drop(over_the_balance(domains(), rates, spec.domains.most), OVER_DOMAIN)
    if spec.limit is not None:
        kept = np.flatnonzero(found.left()).tolist()
        found.verdicts.drop(ordered(kept, rates)[spec.limit :], OVER_LIMIT)


def _write(context: StageContext, found: _Found, queries: _Queries, pool: ShardPool) -> StageResult:
    scan, measured = found.scan, found.measured
    funnel = _funnel(found, queries)
    context.say(f"{context.name}: kept {funnel}")
    if not funnel.rows_out:
        limits = any(reason.startswith("too") for reason in funnel.reasons)
        fix = "widen keep.pass_rate" if limits else "give it prompts that no excluded source holds, or loosen `rules`"
        raise DataError(f"no prompt is left of {funnel.rows_in}: {funnel.reasons}", where=context.name, fix=fix)
    context.progress.start(funnel.rows_out, unit="prompt")
    work = KeepShard(folder=scan.folder)
    done = partial(_shard_done, context, "writing")
    write_kept(context.artifact_dir, work, _selections(found), funnel.rows_out, pool, done)
    if funnel.dropped:
        names = _names(found)
        write_stream(context.artifact_dir, lambda: _dropped(found, names, queries), DROPPED)
    funnel.write(context.artifact_dir)
    metrics = {"kept": float(funnel.rows_out), "dropped": float(funnel.dropped)}
    if measured.rates:
        metrics["pass_rate"] = float(np.mean(list(measured.rates.values())))
    about = {"dropped": funnel.reasons, "rows": funnel.rows_out, "unjudged": measured.unjudged}
    return StageResult(kind="data", metrics=metrics, provenance=about)


def _funnel(found: _Found, queries: _Queries) -> Funnel:
    funnel = Funnel([MALFORMED, USED, RESERVED])
    malformed = sum(bad.skipped for bad in queries.bad)
    funnel.rows_in = found.scan.rows + malformed
    funnel.drop(MALFORMED, malformed)
    for _, _, why, _ in _reasons(found, {}):
        funnel.drop(split_reason(why)[0])
    return funnel


def _selections(found: _Found) -> Iterator[Selection]:
    """What is kept, a shard after the other. An id that several kept rows have gets their places behind it."""
    kept, measured = found.left(), found.measured
    ids = np.asarray(found.scan.column("id"))
    values, counts = np.unique(ids[kept], return_counts=True)
    renamed = kept & np.isin(ids, values[counts > 1])
    for number, places in found.scan.shards():
        chosen = np.flatnonzero(kept[places])
        if len(chosen):
            start = places.start
            yield Selection(
                number=number,
                places=chosen,
                renamed={i: str(start + i) for i in np.flatnonzero(renamed[places]).tolist()},
                rates=_at(measured.rates, chosen, start),
                domains=_at(measured.domains, chosen, start),
            )


def _at(values: Mapping[int, Any], chosen: NDArray[np.int64], start: int) -> dict[int, Any]:
    """Values by place among all rows as values by place in a shard."""
    return {i: values[start + i] for i in chosen.tolist() if start + i in values} if values else {}


def _names(found: _Found) -> dict[int, str]:
    """The ids of the rows that others repeat."""
    wanted, names = found.verdicts.repeated, dict[int, str]()
    for number, places in found.scan.shards():
        mine = wanted[np.searchsorted(wanted, places.start) : np.searchsorted(wanted, places.stop)]
        if len(mine):
            ids = found.scan.texts(number, "id")
            names |= {place: ids[place - places.start] or "" for place in mine.tolist()}
    return names


def _reasons(found: _Found, names: Mapping[int, str]) -> Iterator[tuple[int, int, str, int]]:
    """Every dropped row: its shard, its place in it, its reason with the detail, its place among all rows."""
    gone = ~found.left()
    for number, places in found.scan.shards():
        alone = found.scan.texts(number, "reason")
        for i in np.flatnonzero(gone[places]).tolist():
            yield number, i, alone[i] or found.verdicts.why(places.start + i, names), places.start + i


def _dropped(found: _Found, names: Mapping[int, str], queries: _Queries) -> Iterator[Row]:
    """The lines of dropped.parquet."""
    for bad in queries.bad:
        for error in bad.errors:
            yield {"id": error.where or "", "prompt": "", "reason": MALFORMED, "detail": error.what}
    shown, ids, asked = -1, list[str | None](), list[str | None]()
    for number, i, why, place in _reasons(found, names):
        if number != shown:
            shown, ids, asked = number, found.scan.texts(number, "id"), found.scan.texts(number, "prompt")
        reason, detail = split_reason(why)
        rate = found.measured.rates.get(place)
        more = {} if rate is None else {"pass_rate": rate}
        yield {"id": ids[i], "prompt": asked[i], "reason": reason, "detail": detail, **more}
