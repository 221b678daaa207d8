"""Rows in, from everywhere a recipe may name; malformed ones are reported with file and line."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from posttrain.configs.nodes.declaration import RowForm
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.stages.data.files import BadRows, Placed, file_rows, row_count
from posttrain.stages.data.row_checks import check_document, check_response, row_messages, row_mode, with_messages
from posttrain.stages.data.store import FILE, iter_rows
from posttrain.stages.generators import builtin, dialogues, scraped, task_agents, task_skills, task_text
from posttrain.stages.generators.builtin import held_out
from posttrain.stages.generators.worked_solutions import worked_solution
from posttrain.stages.models.locations import Locations
from posttrain.types import Mode, Prompt, Row

if TYPE_CHECKING:
    from posttrain.stages.data.context_fit import Fit

S = TypeVar("S", bound=PromptSource)
GENERATORS = {
    **builtin.GENERATORS,
    **dialogues.GENERATORS,
    **scraped.GENERATORS,
    **task_text.GENERATORS,
    **task_skills.GENERATORS,
    **task_agents.GENERATORS,
}
"""All generators that `builtin:NAME` may name."""

DEFAULT_GENERATED = 1000
SEARCHED = 50  # rows drawn for each one wanted, before the search for new ones ends
MIXED_MODES: tuple[Mode, ...] = ("default", "think", "no_think")
VALIDATION = "validation.parquet"
"""What a curate stage reserved, beside its data."""

T = TypeVar("T")
_NOT_COLUMNS = ("id", "messages", "prompt", "mode", "task", "domain")


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What a source holds, as `plan --check` shows it."""

    rows: int
    columns: tuple[str, ...]
    skipped: int = 0
    """Malformed ones, where the recipe skips them."""


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable: the same parts, the same seed, on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def load_rows(
    source: PromptSource,
    *,
    locations: Locations,
    seed: int,
    check: Callable[[Row, str], object] | None = None,
    bad: BadRows | None = None,
) -> list[Row]:
    """All rows of one source, at most `source.n`, columns renamed, `task` set; `check` raises for a malformed one.

    Raises:
        DataError: the source doesn't exist or a row is malformed; with file and line.
    """

    def checked(row: Row, where: str) -> Row:
        if check is not None:
            check(row, where)
        return row

    return list(read(source, checked, locations=locations, seed=seed, bad=bad))


def read(
    source: PromptSource,
    make: Callable[[Row, str], T],
    *,
    locations: Locations,
    seed: int,
    bad: BadRows | None = None,
) -> Iterator[T]:
    """What `make` makes of each row of a source, one at a time; malformed rows are counted in `bad`, if they may be.

    Raises:
        DataError: as `load_rows`, and `make`.
    """
    bad = bad or BadRows(source)
    for where, row in _rows(source, locations, seed):
        try:
            if isinstance(row, DataError):
                raise row
            made = make(_renamed(row, source, where), where)
        except DataError as error:
            bad.met(error)
            continue
        bad.rows += 1
        yield made
        if bad.rows == source.n:
            break
    if not bad.rows:
        skipped = f": all {bad.skipped} are malformed, {bad.errors[0]}" if bad.skipped else ""
        raise DataError(f"there isn't a single row{skipped}", where=source.source)
    bad.settle()


def expected_rows(source: PromptSource, locations: Locations) -> int:
    """How many rows a source has, as far as it is known before they are read: for a progress bar."""
    name = source.source
    if name.startswith(("builtin:", "reasoning_gym:", "hf:")):
        return source.n or (0 if name.startswith("hf:") else DEFAULT_GENERATED)
    inputs, folder = locations.inputs, locations.recipe_dir
    there = row_count(_stage_file(source, inputs) if name in inputs else folder / Path(name).expanduser())
    return min(there, source.n or there)


def _stage_file(source: PromptSource, inputs: Mapping[str, Path]) -> Path:
    return inputs[source.source] / (VALIDATION if source.split == "validation" else FILE)


def _rows(source: PromptSource, locations: Locations, seed: int) -> Iterator[Placed]:
    name, inputs = source.source, locations.inputs
    if name in inputs:
        path = _stage_file(source, inputs)
        if source.split == "validation" and not path.is_file():
            fix = "name a curate stage that has `validation: N`"
            raise DataError(f"`{name}` has no split validation", where=name, fix=fix)
        rows: Iterable[Row] = iter_rows(path)
    elif name.startswith("builtin:"):
        rows = _generate(source, seed)
    elif name.startswith("reasoning_gym:"):
        rows = _reasoning_gym(source, seed)
    elif name.startswith("hf:"):
        rows = _hub(source)
    else:
        yield from file_rows(locations.recipe_dir / Path(name).expanduser())
        return
    yield from ((f"{name}:{number}", row) for number, row in enumerate(rows, 1))


def _renamed(row: Row, source: PromptSource, where: str) -> Row:
    row = dict(row)
    for ours, theirs in source.columns.items():
        if theirs not in row:
            raise DataError(
                f"no column {theirs!r}; there are {sorted(row)}", where=where, fix=f"fix `columns: {{{ours}: ...}}`"
            )
        row[ours] = row[theirs]
    if source.task is not None:
        row["task"] = source.task
    return with_messages(row)


def _generate(source: PromptSource, seed: int) -> Iterable[Row]:
    name = source.source.removeprefix("builtin:")
    if name not in GENERATORS:
        raise DataError(f"no generator {source.source!r}", fix=f"use builtin:{{{', '.join(GENERATORS)}}}")
    if source.split not in ("train", "heldout"):
        raise DataError(f"generators have no split {source.split!r}", where=source.source, fix="use train or heldout")
    rng = random.Random(derive_seed("generator", name, source.split, seed))
    try:
        rows = GENERATORS[name](rng, source.split, **source.params)
        return _unique(rows, source.n or DEFAULT_GENERATED)
    except TypeError as error:
        raise DataError(f"wrong params: {error}", where=source.source) from None


def _unique(rows: Iterable[Row], n: int) -> list[Row]:
    """The first `n` rows with different keys; a small space of keys ends the search early.

    Rows that have a `place` are told apart by it, their keys may come back: they are to have duplicates.
    """
    found: dict[str, Row] = {}
    for row in islice(rows, SEARCHED * n):
        found.setdefault(row.pop("place", row["key"]), row)
        if len(found) == n:
            break
    return list(found.values())


def _reasoning_gym(source: PromptSource, seed: int) -> Iterable[Row]:
    try:
        import reasoning_gym
    except ImportError:
        raise DataError(
            "reasoning-gym isn't installed", where=source.source, fix="pip install 'posttrain[reasoning]'"
        ) from None
    task = source.source.removeprefix("reasoning_gym:")
    if source.split not in ("train", "heldout"):
        raise DataError(f"generators have no split {source.split!r}", where=source.source, fix="use train or heldout")
    count = source.n or DEFAULT_GENERATED
    # Split by content, as our own generators: most tasks repeat themselves, whatever the seed.
    size = SEARCHED * count
    try:
        data = reasoning_gym.create_dataset(
            task, size=size, seed=derive_seed("reasoning_gym", source.split, seed) % 2**31, **source.params
        )
    except Exception as error:
        raise DataError(f"reasoning_gym refuses: {error}", where=source.source) from error
    wanted = source.split == "heldout"
    entries = (data[i] for i in range(size))
    rows = (_gym_row(task, entry) for entry in entries if held_out(entry["question"]) == wanted)
    return _unique(rows, count)


def _gym_row(task: str, entry: Mapping[str, Any]) -> Row:
    solution = worked_solution(task, entry)
    return {
        "key": entry["question"], "prompt": entry["question"], "answer": str(entry["answer"]),
        "task": "reasoning_gym", "domain": task, "task_name": task, "entry": json.dumps(entry, default=str),
        **({"solution": solution} if solution else {}),
    }  # fmt: skip


def _hub(source: PromptSource) -> Iterable[Row]:
    from datasets import load_dataset

    try:
        data = load_dataset(source.source.removeprefix("hf:"), split=source.split, revision=source.revision)
    except Exception as error:
        raise DataError(f"can't load from the Hub: {error}", where=source.source) from error
    return (dict(row) for row in data)


def to_prompt(row: Row, source: PromptSource, where: str, mode: str | None = None) -> Prompt:
    """A row as a prompt; its id is a hash of its content unless it has one.

    Raises:
        DataError: see `row_messages`; or the mode that decides is none.
    """
    messages = row_messages(row, where)
    identity = str(row.get("id") or hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16])
    wanted: Any = mode or source.mode or row_mode(row, where)
    if wanted == "mixed":
        wanted = MIXED_MODES[derive_seed("mode", identity) % len(MIXED_MODES)]
    return Prompt(
        id=identity,
        messages=tuple(messages),
        mode=wanted,
        task=str(row.get("task", "")),
        domain=str(row.get("domain", "")),
        columns={k: v for k, v in row.items() if k not in _NOT_COLUMNS},
        environment=source.environment.model_dump_json() if source.environment else "",
    )


def prompt_maker(source: PromptSource, mode: str | None = None) -> Callable[[Row, str], Prompt]:
    """`to_prompt` for the rows of one source."""
    return lambda row, where: to_prompt(row, source, where, mode)


def load_prompts(
    sources: Sequence[PromptSource],
    *,
    locations: Locations,
    seed: int,
    mode: str | None = None,
    bad: Sequence[BadRows] = (),
) -> list[list[Prompt]]:
    """The prompts of each source; ids are unique over all of them (a repeated prompt gets a suffix).

    Raises:
        DataError: with file and line.
    """
    seen: dict[str, int] = {}
    result = []
    for number, source in enumerate(sources):
        counted = bad[number] if bad else None
        make = prompt_maker(source, mode)
        prompts = read(source, make, locations=locations, seed=seed, bad=counted)
        result.append(with_unique_ids(prompts, seen))
    return result


def with_unique_ids(prompts: Iterable[Prompt], seen: dict[str, int]) -> list[Prompt]:
    """The prompts, with a suffix where an id is `seen` already."""
    return [replace(prompt, id=_unseen(prompt.id, seen)) for prompt in prompts]


def _unseen(identity: str, seen: dict[str, int]) -> str:
    """The id itself, or with the first suffix that makes it new; `seen` is told, the suffix to try next by id."""
    new = identity
    while new in seen:
        new = f"{identity}.{seen[identity]}"
        seen[identity] += 1
    seen[new] = 1
    return new


def check_source(
    source: PromptSource,
    recipe_dir: Path,
    *,
    form: RowForm,
    seed: int = 0,
    look: Callable[[Row, str], None] | None = None,
) -> SourceReport:
    """Read a source that isn't a stage and check that every row has the form; `look` gets each that has.

    Raises:
        DataError: with file and line.
    """
    columns: set[str] = set()

    def check(row: Row, where: str) -> None:
        check_row(row, source, where, form=form)
        columns.update(map(str, row))
        if look is not None:
            look(row, where)

    bad = BadRows(source)
    for _ in read(source, check, locations=Locations(recipe_dir=recipe_dir), seed=seed, bad=bad):
        pass
    return SourceReport(rows=bad.rows, columns=tuple(sorted(columns)), skipped=bad.skipped)


def check_row(row: Row, source: PromptSource, where: str, *, form: RowForm) -> None:
    """Raises DataError if a row doesn't have the form."""
    if form == "documents":
        check_document(row, where)
        return
    messages = row_messages(row, where)
    if form == "conversations":
        check_response(row, messages, where)
    if form == "conversations" or source.mode is None:
        row_mode(row, where)


def load_all(
    context: Any, sources: Sequence[PromptSource], mode: str | None = None, fit: Fit | None = None
) -> list[list[Prompt]]:
    """`load_prompts` for a stage, which says what was skipped; with `fit` the prompts that the model can answer.

    Raises:
        DataError: as `load_prompts`; a prompt is too long or answered already, or all of a source are.
    """
    bad = [BadRows(patient(context, source)) for source in sources]
    prompts = load_prompts(
        [counted.source for counted in bad], locations=context.locations, seed=context.seed, mode=mode, bad=bad,
    )  # fmt: skip
    if fit is not None:
        prompts = [fit.answerable(found, counted) for found, counted in zip(prompts, bad, strict=True)]
    for counted in bad:
        if counted.skipped:
            context.say(f"{context.name}: {counted}")
    return prompts


def patient(context: Any, source: S) -> S:
    """Rows that another stage made nobody can fix: they may be skipped unless the recipe says otherwise."""
    if source.source not in context.inputs or "on_bad_row" in source.model_fields_set:
        return source
    return source.model_copy(update={"on_bad_row": "skip"})
