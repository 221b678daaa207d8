"""Rows in, from everywhere a recipe may name; malformed ones are reported with file and line."""

from __future__ import annotations

import codecs
import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from posttrain.configs.problems import closest
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.stages.data import builtin, task_skills, task_text
from posttrain.stages.data.builtin import held_out
from posttrain.stages.data.store import FILE, read_rows
from posttrain.stages.data.worked import worked_solution
from posttrain.types import Mode, Prompt

Row = dict[str, Any]
GENERATORS = {**builtin.GENERATORS, **task_text.GENERATORS, **task_skills.GENERATORS}
"""All generators that `builtin:NAME` may name."""

DEFAULT_GENERATED = 1000
SEARCHED = 50  # rows drawn for each one wanted, before the search for new ones ends
MIXED_MODES: tuple[Mode, ...] = ("default", "think", "no_think")
_MODES = (*get_args(Mode), "mixed")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_COLUMNS = ("id", "messages", "prompt", "mode", "task", "domain")


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """What a source holds, as `plan --check` shows it."""

    rows: int
    columns: tuple[str, ...]


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable: the same parts, the same seed, on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def load_rows(source: PromptSource, *, recipe_dir: Path, inputs: Mapping[str, Path], seed: int) -> list[Row]:
    """All rows of one source, at most `source.n`, columns renamed, `task` and `mode` set.

    Raises:
        DataError: the source doesn't exist or a row is malformed; with file and line.
    """
    name = source.source
    if name in inputs:
        rows: Iterable[Row] = read_rows(inputs[name] / FILE)
    elif name.startswith("builtin:"):
        rows = _generate(source, seed)
    elif name.startswith("reasoning_gym:"):
        rows = _reasoning_gym(source, seed)
    elif name.startswith("hf:"):
        rows = _hub(source)
    else:
        rows = _file(recipe_dir / Path(name).expanduser())
    taken = [_renamed(row, source, f"{name}:{number}") for number, row in enumerate(islice(rows, source.n), 1)]
    if not taken:
        raise DataError("there isn't a single row", where=name)
    return taken


def _renamed(row: Row, source: PromptSource, where: str) -> Row:
    row = dict(row)
    for ours, theirs in source.columns.items():
        if theirs not in row:
            raise DataError(
                f"no column {theirs!r}; there are {sorted(row)}", where=where, fix=f"mend `columns: {{{ours}: ...}}`"
            )
        row[ours] = row[theirs]
    if source.task is not None:
        row["task"] = source.task
    return row


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
    """The first `n` rows with different keys; a small space of keys ends the search early."""
    found: dict[str, Row] = {}
    for row in islice(rows, SEARCHED * n):
        found.setdefault(row["key"], row)
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


def _file(path: Path) -> Iterable[Row]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="paths in a recipe start at the recipe's folder")
    if path.suffix == ".parquet":
        return read_rows(path)
    if path.suffix != ".jsonl":
        raise DataError(f"can't read {path.suffix!r} files", where=str(path), fix="use .jsonl or .parquet")
    text = _text(path).rstrip()
    return [_json_row(line, f"{path}:{number}") for number, line in enumerate(text.split("\n") if text else [], 1)]


def _text(path: Path) -> str:
    """The file's text, without the mark that some editors put in front. Raises DataError at a byte that isn't UTF-8."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}", where=str(path)) from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8: byte 0x{content[error.start]:02x}",
            where=f"{path}:{content.count(10, 0, error.start) + 1}",
            fix="convert the file, e.g. iconv -f latin1 -t utf-8",
        ) from None


def _json_row(line: str, where: str) -> Row:
    if not line.strip():  # skipped, it would shift the line numbers of all later messages
        raise DataError("an empty line", where=where, fix="delete it")
    try:
        row = json.loads(line)
        if _SURROGATE.search(line):
            row = _whole_characters(row)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} (column {error.colno})", where=where) from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, lists in lists in lists
        raise DataError(f"can't be read: {error}", where=where) from None
    if not isinstance(row, dict):
        raise DataError(f"a row is an object, this is {type(row).__name__}", where=where)
    return row


def _whole_characters(value: Any) -> Any:
    """Halves of surrogate pairs become U+FFFD: an emoji cut in two by some program, which no tokenizer would take."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


def row_messages(row: Row, where: str) -> list[dict[str, Any]]:
    """The row's `messages`, or its `prompt` as one user turn.

    Raises:
        DataError: neither is there, or a message has no role or content.
    """
    messages = row.get("messages")
    if messages is None:
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt.strip():
            return [{"role": "user", "content": prompt}]
        raise DataError(
            f"a row has neither `messages` nor `prompt`; its columns are {sorted(row)}", where=where,
            fix="map them: columns: {prompt: question}",
        )  # fmt: skip
    if not isinstance(messages, list) or not messages:
        raise DataError("`messages` must be a non-empty list", where=where)
    for message in messages:
        if (
            not isinstance(message, dict)
            or "role" not in message
            or ("content" not in message and "tool_calls" not in message)
        ):
            raise DataError(f"a message needs role and content, this is {str(message)[:80]}", where=where)
    return messages


def check_response(row: Row, messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raises DataError unless the row has something to learn: a text `response`, or a last assistant turn."""
    if "response" in row and not isinstance(row["response"], str):
        raise DataError(
            f"`response` must be text, this is {json.dumps(row['response'], default=str)[:80]}", where=where,
            fix="write it as a string, or leave the row out",
        )  # fmt: skip
    if "response" not in row and messages[-1]["role"] != "assistant":
        raise DataError("a training row needs a `response` or a last assistant turn", where=where)


def to_prompt(row: Row, source: PromptSource, where: str, mode: str | None = None) -> Prompt:
    """A row as a prompt; its id is a hash of its content unless it has one.

    Raises:
        DataError: see `row_messages`; or the mode that decides is none.
    """
    messages = row_messages(row, where)
    identity = str(row.get("id") or hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16])
    wanted: Any = mode or source.mode or _row_mode(row, where)
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


def _row_mode(row: Row, where: str) -> str:
    mode = row.get("mode") or "default"
    if mode not in _MODES:
        hint = closest(str(mode), _MODES)
        raise DataError(f"no mode {mode!r}; {hint}", where=where, fix="mend the column `mode`, or rename it")
    return str(mode)


def load_prompts(
    sources: Sequence[PromptSource], *, recipe_dir: Path, inputs: Mapping[str, Path], seed: int, mode: str | None = None
) -> list[list[Prompt]]:
    """The prompts of each source; ids are unique over all of them (a repeated prompt gets a suffix).

    Raises:
        DataError: with file and line.
    """
    seen: dict[str, int] = {}
    result = []
    for source in sources:
        prompts = []
        for number, row in enumerate(load_rows(source, recipe_dir=recipe_dir, inputs=inputs, seed=seed), 1):
            prompt = to_prompt(row, source, f"{source.source}:{number}", mode)
            prompts.append(replace(prompt, id=_unseen(prompt.id, seen)))
        result.append(prompts)
    return result


def _unseen(identity: str, seen: dict[str, int]) -> str:
    """The id itself, or with the first suffix that makes it new; `seen` is told, the suffix to try next by id."""
    new = identity
    while new in seen:
        new = f"{identity}.{seen[identity]}"
        seen[identity] += 1
    seen[new] = 1
    return new


def check_source(source: PromptSource, recipe_dir: Path, *, kind: str, text: bool = False) -> SourceReport:
    """Read a source that isn't a stage and check every row; `kind` is the consuming stage's.

    Raises:
        DataError: with file and line.
    """
    rows = load_rows(source, recipe_dir=recipe_dir, inputs={}, seed=0)
    for number, row in enumerate(rows, 1):
        where = f"{source.source}:{number}"
        if text:
            if not isinstance(row.get("text"), str):
                raise DataError("a document needs the column `text`", where=where)
            continue
        messages = row_messages(row, where)
        if kind == "sft":
            check_response(row, messages, where)
        if kind == "sft" or source.mode is None:
            _row_mode(row, where)
    return SourceReport(rows=len(rows), columns=tuple(sorted({key for row in rows for key in row})))


def load_all(context: Any, sources: Sequence[PromptSource], mode: str | None = None) -> list[list[Prompt]]:
    """`load_prompts` for a stage."""
    return load_prompts(sources, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=context.seed, mode=mode)
