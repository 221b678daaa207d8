"""Query curation (report, 4.1 and 4.2): what can be verified, isn't used yet, isn't kept for evaluation, needs
thinking, can be learned, and is spread over domains; each dropped row with its reason.

Passes, each over shards on disk: reserve a validation split; rules, provenance and decontamination a row (`scan`);
duplicates (`near_duplicates`); a judge, a model without thinking and a model's pass rate, batch by batch (`measure`);
the balance of domains and the limit, the hardest first. Interrupted, it goes on behind its last shard or batch.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.configs.schema import Curate, PromptSource
from posttrain.errors import DataError
from posttrain.rewards.base import needed_columns
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.content import content
from posttrain.stages.data.domains import domain_of, ordered, over_the_balance
from posttrain.stages.data.files import BadRows
from posttrain.stages.data.funnel import DROPPED, Funnel, split_reason
from posttrain.stages.data.held_out import HeldOut
from posttrain.stages.data.load import VALIDATION, derive_seed, load_all, prompt_maker, read
from posttrain.stages.data.near_duplicates import exact_duplicates, near_duplicates
from posttrain.stages.data.query_rules import unverifiable
from posttrain.stages.data.scan import Entry, Scan, hash64
from posttrain.stages.data.store import write_rows, write_stream
from posttrain.stages.rollout.measure import Measured, measure
from posttrain.types import Prompt

MALFORMED, USED, RESERVED = "malformed", "used by an excluded source", "reserved for validation"
CONTAMINATED, DUPLICATE, NEAR = "near a held-out item", "duplicate", "near duplicate"
OVER_DOMAIN, OVER_LIMIT = "over the balance of its domain", "over the limit"

Row = dict[str, Any]


def run(context: StageContext) -> StageResult:
    """Write the kept prompts as a data set, and every drop with its reason beside it."""
    spec: Curate = context.spec
    queries = _Queries(context, spec)
    reserved = queries.reserve()
    scan = Scan(context.dir / "scan", ngram=spec.deduplicate.ngram)
    context.progress.start(queries.expected, unit="prompt")
    scan.fill(queries, queries.judge(reserved), as_row, partial(_shard_done, context))
    verdicts = _duplicates(context, spec, scan)
    alive = scan.alive()
    alive[list(verdicts)] = False
    measured = measure(context, spec, lambda: _prompts(scan, alive))
    verdicts |= measured.reasons
    alive[list(measured.reasons)] = False
    domains = _domains(scan, alive, spec, measured)
    over = over_the_balance(domains, measured.rates, spec.domains.most)
    verdicts |= dict.fromkeys(over, OVER_DOMAIN)
    kept = [place for place in np.flatnonzero(alive).tolist() if place not in over]
    if spec.limit is not None:
        verdicts |= dict.fromkeys(ordered(kept, measured.rates)[spec.limit :], OVER_LIMIT)
    result = _write(context, scan, verdicts, queries, measured, domains)
    if spec.validation:
        write_rows(context.artifact_dir, [as_row(prompt) for prompt in reserved], VALIDATION)
    shutil.rmtree(context.dir / "scan", ignore_errors=True)
    return result


class _Queries:
    """All prompts of the stage, read anew for each pass; malformed rows are counted."""

    def __init__(self, context: StageContext, spec: Curate) -> None:
        self.context, self.spec = context, spec
        self.bad = [BadRows(source) for source in spec.prompts]
        self.expected = sum(source.n or 0 for source in spec.prompts)
        self._needed = {use.use: needed_columns(use, context.recipe_dir) for use in spec.rewards}
        self._used = {mark for source in spec.exclude for prompt in self._read(source) for mark in _marks(prompt)}
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

    def judge(self, reserved: Sequence[Prompt]) -> Callable[[Sequence[Prompt]], list[str | None]]:
        """The reasons against queries that each of them alone decides, as a function."""
        spec, limits = self.spec, self.spec.decontaminate
        mine = {content(prompt) for prompt in reserved}
        sets = [*self._held_out, ("the validation split", list(reserved))]
        held_out = HeldOut(sets, ngram=limits.ngram, at_most=limits.at_most, near=limits.near)

        def alone(prompt: Prompt) -> str | None:
            if not self._used.isdisjoint(_marks(prompt)):
                return USED
            if content(prompt) in mine:
                return RESERVED
            return unverifiable(prompt, spec.rules, spec.rewards, self._needed)

        def reasons(prompts: Sequence[Prompt]) -> list[str | None]:
            against = [alone(prompt) for prompt in prompts]
            left = [i for i, reason in enumerate(against) if reason is None]
            for i, found in zip(left, held_out.find_all([prompts[i] for i in left]), strict=True):
                against[i] = f"{CONTAMINATED}: {found}" if found else None
            return against

        return reasons

    def _read(self, source: PromptSource, bad: BadRows | None = None) -> Iterator[Prompt]:
        make = prompt_maker(source)
        context = self.context
        for prompt in read(
            source, make, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=context.seed, bad=bad
        ):
            columns = {"origin": f"{source.source}#{prompt.id}", **prompt.columns}
            yield Prompt(**{**vars(prompt), "columns": columns})


def _marks(prompt: Prompt) -> tuple[int, int]:
    """By what a query is known again: its content, and where it comes from, which survives rewording."""
    return hash64(content(prompt)), hash64(f"origin {prompt.columns.get('origin', '')}")


def _shard_done(context: StageContext, rows: int) -> None:
    context.progress.advance(rows)
    context.check_stop()


def _duplicates(context: StageContext, spec: Curate, scan: Scan) -> dict[int, str]:
    """The rows that are duplicates of one before them, with a reason; its place becomes an id when it is written."""
    alive = scan.alive()
    places = np.flatnonzero(alive)
    first = places[exact_duplicates(np.asarray(scan.column("content"))[places])] if len(places) else places
    repeated = places != first
    found = {int(p): f"{DUPLICATE}: #{f}" for p, f in zip(places[repeated], first[repeated], strict=True)}
    alive[places[repeated]] = False
    if spec.deduplicate.near is not None and alive.any():
        numbers = np.asarray(scan.column("numbers")) if spec.deduplicate.same_numbers else None
        roots = near_duplicates(
            lambda band: scan.column(f"band-{band:02d}"), scan.signatures(), numbers, alive, spec.deduplicate.near,
            progress=lambda band: context.check_stop(),
        )  # fmt: skip
        near = np.flatnonzero(alive & (roots != np.arange(len(roots))))
        found |= {int(p): f"{NEAR}: #{roots[p]}" for p in near}
    return found


def _prompts(scan: Scan, alive: NDArray[np.bool_]) -> Iterator[tuple[int, Prompt]]:
    """The rows that are left, with their places; ids are unique."""
    for entry in scan.entries():
        if alive[entry.place]:
            yield entry.place, as_prompt(entry)


def as_prompt(entry: Entry) -> Prompt:
    """The prompt that a shard's row was made of; its place makes the id unique for the time being."""
    row = dict(entry.row)
    environment = row.pop("_environment", "")
    known = {name: row.pop(name) for name in ("id", "messages", "task", "domain", "mode")}
    messages = tuple(known.pop("messages"))
    return Prompt(
        **{**known, "id": f"{known['id']}@{entry.place}"}, messages=messages, columns=row, environment=environment
    )


def _domains(scan: Scan, alive: NDArray[np.bool_], spec: Curate, measured: Measured) -> dict[int, str]:
    """The domain of each row that is left."""
    return {
        place: domain_of(prompt, spec.domains) or measured.domains.get(place, "")
        for place, prompt in _prompts(scan, alive)
    }


def _write(
    context: StageContext,
    scan: Scan,
    verdicts: dict[int, str],
    queries: _Queries,
    measured: Measured,
    domains: dict[int, str],
) -> StageResult:
    funnel = Funnel([MALFORMED, USED, RESERVED])
    funnel.rows_in = scan.rows + sum(bad.skipped for bad in queries.bad)
    funnel.drop(MALFORMED, sum(bad.skipped for bad in queries.bad))
    ids = scan.column("id")
    for entry in scan.entries():
        if (why := entry.reason or verdicts.get(entry.place)) is not None:
            funnel.drop(split_reason(why)[0])
    context.say(f"{context.name}: kept {funnel}")
    if not funnel.rows_out:
        limits = any(reason.startswith("too") for reason in funnel.reasons)
        fix = "widen keep.pass_rate" if limits else "give it prompts that no excluded source holds, or loosen `rules`"
        raise DataError(f"no prompt is left of {funnel.rows_in}: {funnel.reasons}", where=context.name, fix=fix)
    repeated = _repeated(ids, scan, verdicts)

    def kept() -> Iterator[Row]:
        for entry in scan.entries():
            if entry.reason is None and entry.place not in verdicts:
                row = {k: v for k, v in entry.row.items() if k != "_environment"}
                row["id"] = f"{row['id']}.{entry.place}" if int(ids[entry.place]) in repeated else row["id"]
                rate = measured.rates.get(entry.place)
                yield {**row, "domain": domains[entry.place], **({} if rate is None else {"pass_rate": rate})}

    write_stream(context.artifact_dir, kept)
    if funnel.dropped:
        write_stream(context.artifact_dir, lambda: _dropped(scan, verdicts, queries, measured), DROPPED)
    funnel.write(context.artifact_dir)
    metrics = {"kept": float(funnel.rows_out), "dropped": float(funnel.dropped)}
    if measured.rates:
        metrics["pass_rate"] = float(np.mean(list(measured.rates.values())))
    about = {"dropped": funnel.reasons, "rows": funnel.rows_out, "unjudged": measured.unjudged}
    return StageResult(kind="data", metrics=metrics, provenance=about)


def _dropped(scan: Scan, verdicts: dict[int, str], queries: _Queries, measured: Measured) -> Iterator[Row]:
    """The lines of dropped.parquet."""
    for bad in queries.bad:
        for error in bad.errors:
            yield {"id": error.where or "", "prompt": "", "reason": MALFORMED, "detail": error.what}
    wanted = {int(why.rpartition("#")[2]) for why in verdicts.values() if why.startswith((DUPLICATE, NEAR))}
    names: dict[int, str] = {}
    for entry in scan.entries():
        if entry.place in wanted:
            names[entry.place] = str(entry.row["id"])
        why = entry.reason or verdicts.get(entry.place)
        if why is None:
            continue
        reason, detail = split_reason(why)
        if reason in (DUPLICATE, NEAR):
            detail = f"of {names[int(detail[1:])]}"
        rate = measured.rates.get(entry.place)
        more = {} if rate is None else {"pass_rate": rate}
        yield {"id": entry.row["id"], "prompt": entry.prompt, "reason": reason, "detail": detail, **more}


def _repeated(ids: NDArray[np.uint64], scan: Scan, verdicts: dict[int, str]) -> set[int]:
    """Hashes of the ids that more than one kept row has."""
    kept = scan.alive()
    kept[list(verdicts)] = False
    values, counts = np.unique(np.asarray(ids)[kept], return_counts=True)
    return set(values[counts > 1].tolist())


def as_row(prompt: Prompt) -> Row:
    """A prompt as a row that `load_rows` reads back."""
    row: Row = {**prompt.columns, "id": prompt.id, "messages": [dict(m) for m in prompt.messages]}
    row |= {"task": prompt.task, "domain": prompt.domain, "mode": prompt.mode}
    row = json.loads(json.dumps(row, default=str))
    return {**row, "_environment": prompt.environment} if prompt.environment else row
