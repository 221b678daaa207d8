"""Rows as the model gets them, token by token, with what is trained on: for `posttrain data show`."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.loading.problems import closest
from posttrain.configs.schema import PromptSource
from posttrain.errors import InputError
from posttrain.pipelines.graph.dag import Node, build_dag
from posttrain.pipelines.preflight.stage_reading import StageReading
from posttrain.pipelines.records.ledger import Ledger

if TYPE_CHECKING:
    from posttrain.stages.models.chat import ChatFormat
    from posttrain.types import Sample

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the order of what is printed behind them, line ends and marks too."""


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One rendered sequence.

    >>> ShownRow(where="chat.jsonl:7", parts=(("<|im_start|>user\\n2+2?...", False), ("4<|im_end|>", True)),
    ...          tokens=12, targets=2)
    """

    where: str
    parts: tuple[tuple[str, bool], ...]
    """Texts of tokens in order, each with whether they are trained on."""
    tokens: int
    targets: int


def shown_rows(loaded: LoadedRecipe, stage: str, n: int, run_dir: Path) -> Iterator[ShownRow]:
    """The first `n` rows of each source: what `sft` trains on, what a finished `sample` stage left, or prompts.

    Raises:
        InputError: no such stage, or one that reads no rows; a stage that it reads hasn't run; a malformed row.
    """
    dag = build_dag(loaded)
    if stage not in dag:
        raise InputError(f"no stage {stage!r}; {closest(stage, dag)}")
    node = dag[stage]
    reading = StageReading(loaded=loaded, node=node, inputs=_finished(dag, Ledger(run_dir)))
    declared = node.declaration
    prompts = [item.source for item in declared.sources if item.role == "prompts"]
    if declared.rendering:
        _need(reading, [item.source.source for item in declared.sources if item.role == "training"])
        yield from _trained(reading, declared.rendering, n)
    elif declared.gives_responses and stage in reading.inputs:
        yield from _left(reading, n)
    elif prompts:
        _need(reading, [source.source for source in prompts])
        yield from _prompts(reading, prompts, n)
    else:
        raise InputError(f"{stage} is a stage of kind {node.spec.kind}, which reads no rows of its own")


def _finished(dag: dict[str, Node], ledger: Ledger) -> dict[str, Path]:
    names = [name for name, node in dag.items() if node.declaration.gives != "table" and ledger.manifest(name)]
    return {name: ledger.artifact(name) for name in names}


def _need(reading: StageReading, sources: Sequence[str]) -> None:
    for name in sources:
        if name in reading.loaded.recipe.stages and name not in reading.inputs:
            raise InputError(
                f"{reading.name} reads what {name} makes, and that hasn't run",
                fix=f"posttrain run RECIPE --until {name}, or name its --run-dir",
            )


def _trained(reading: StageReading, rendering: str, n: int) -> Iterator[ShownRow]:
    chat = reading.chat()
    for where, sample in import_module(rendering).shown_rows(reading, reading.node.spec, chat, n):
        yield _shown(chat, sample, where)


def _left(reading: StageReading, n: int) -> Iterator[ShownRow]:
    from posttrain.configs.schema import DataSource
    from posttrain.stages.data.fusion import example
    from posttrain.stages.data.load import read

    chat = reading.chat()
    flags = {"think": "/think", "no_think": "/no_think", "closed": "mixed"}
    source = DataSource.model_validate({"from": reading.name, "n": n})

    def make(row: dict, where: str) -> ShownRow:
        asked = source.model_copy(update={"flag": flags.get(str(row.get("mode")))})
        made = example(row, asked, where, 1)
        return _shown(chat, chat.last_turn(made.messages, made.tools, closed=made.closed), where)

    yield from read(source, make, locations=reading.locations, seed=reading.seed)


def _prompts(reading: StageReading, sources: Sequence[PromptSource], n: int) -> Iterator[ShownRow]:
    from posttrain.stages.data.load import prompt_maker, read
    from posttrain.types import Prompt

    chat = reading.chat()
    for source in sources:
        make = prompt_maker(source, reading.node.declaration.mode)

        def placed(row: dict, where: str, make: Callable[[dict, str], Prompt] = make) -> tuple[str, Prompt]:
            return where, make(row, where)

        rows = read(source, placed, locations=reading.locations, seed=reading.seed)
        for where, prompt in islice(rows, n):
            ids = chat.prompt_ids(prompt)
            yield ShownRow(where=where, parts=((_decoded(chat, ids.tolist()), False),), tokens=len(ids), targets=0)


def _shown(chat: ChatFormat, sample: Sample, where: str) -> ShownRow:
    marked = zip(sample.ids.tolist(), (sample.loss_mask > 0).tolist(), strict=True)
    parts = tuple(
        (_decoded(chat, [token for token, _ in run]), trained) for trained, run in groupby(marked, lambda pair: pair[1])
    )
    return ShownRow(where=where, parts=parts, tokens=sample.tokens, targets=int((sample.loss_mask > 0).sum()))


def _decoded(chat: ChatFormat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


# ---------------------------------------------------------------- printing


def print_rows(rows: Sequence[ShownRow], console: Console, mask: Callable[[str], str] = str) -> None:
    """Print rows in colour, or, where there is none, with a mark before each line."""
    coloured = console.is_terminal and not console.no_color
    for row in rows:
        head = printable(mask(f"{row.where}: {row.tokens} tokens, {row.targets} trained on"))
        if coloured:
            parts = [(printable(text), "bold green" if trained else "dim") for text, trained in row.parts]
            console.print(Text.assemble((head, "bold"), "\n", *parts), soft_wrap=True)
            console.print()
            continue
        for line in (f"--- {head}", *plain_lines(row.parts)):
            console.print(Text(line), soft_wrap=True)


def plain_lines(parts: Sequence[tuple[str, bool]]) -> list[str]:
    """Each line behind a mark: `+ ` trained on, `| ` not; `~` in place of the space where it goes on in the same line.

    >>> plain_lines([("user\\n2+2?\\n", False), ("4", True), ("!", False)])
    ['| user', '| 2+2?', '+ 4', '|~!']
    """
    lines: list[str] = []
    goes_on = False
    for text, trained in parts:
        pieces = printable(text).split("\n")
        for number, piece in enumerate(pieces):
            if number == len(pieces) - 1 and not piece:
                break
            lines.append(f"{'+' if trained else '|'}{'~' if goes_on and number == 0 else ' '}{piece}")
        goes_on = bool(text) and not text.endswith("\n")
    return lines


def printable(text: str) -> str:
    """`text` with every control character but the line end written out, as in \\x1b: a terminal obeys none of them."""
    return "".join(c if c == "\n" or not _controls(c) else repr(c)[1:-1] for c in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI
