"""Groups under way in a checkpoint: ids, log-probabilities and versions of what was generated and not yet trained on.

One JSON line a group. A group of an environment's episodes is begun again: its environment can't be kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import RunError
from posttrain.stages.rollout.group_source import Ahead
from posttrain.types import Completion, Group, Prompt


def save_ahead(ahead: Ahead, path: Path) -> None:
    """Write what is under way: finished groups whole, the others as far as they are."""
    begun, serial = ahead.begun
    partial = {g.prompt.id: g for g in ahead.partials()}  # first: what is done meanwhile is taken whole
    lines: list[dict[str, Any]] = [{"begun": begun, "serial": serial}]
    for item in ahead.underway:
        found = item.group or partial.get(item.prompt.id)
        # What an earlier checkpoint brought back may still wait for its turn.
        kept = None if item.prompt.environment else found.completions if found else item.prompt.begun or None
        lines.append(
            {
                "id": item.prompt.id, "origin": item.origin, "serial": item.serial, "step": item.step,
                "done": kept is not None and item.group is not None,
                "completions": None if kept is None else [_written(c) for c in kept],
            }
        )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def restore_ahead(ahead: Ahead, path: Path, rows: Sequence[Prompt]) -> None:
    """Go on with what `save_ahead` wrote; `rows` are the stage's prompts.

    Raises:
        RunError: a prompt isn't among them any more.
    """
    first, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_id = {p.id: p for p in rows}
    groups = []
    for line in lines:
        row = by_id.get(line["origin"])
        if row is None:
            raise RunError(
                f"the prompt {line['origin']} of the checkpoint isn't in the data any more", where=str(path),
                fix="bring the data back, or delete this checkpoint to start earlier",
            )  # fmt: skip
        prompt = replace(row, id=line["id"])
        group = None
        if line["completions"] is not None:
            begun = tuple(_read(line["id"], c) for c in line["completions"])
            if line["done"]:
                group = Group(prompt=prompt, completions=begun)
            else:
                prompt = replace(prompt, begun=begun)
        groups.append((prompt, line["origin"], line["serial"], line["step"], group))
    ahead.restore(first["begun"], first["serial"], groups)


def _written(completion: Completion) -> dict[str, Any]:
    return {
        "index": completion.index, "prompt_ids": completion.prompt_ids.tolist(),
        "token_ids": completion.token_ids.tolist(), "sources": completion.sources.tolist(),
        "logprobs": completion.logprobs.tolist(), "versions": completion.versions.tolist(), "text": completion.text,
        "finish_reason": completion.finish_reason, "turns": list(completion.turns),
        "outcome": dict(completion.outcome), "failure": completion.failure,
    }  # fmt: skip


def _read(prompt_id: str, line: dict[str, Any]) -> Completion:
    types = {"prompt_ids": np.int64, "token_ids": np.int64, "sources": np.int8, "logprobs": np.float32,
             "versions": np.int32}  # fmt: skip
    arrays = {name: np.array(line[name], dtype) for name, dtype in types.items()}
    return Completion(**{**line, **arrays, "turns": tuple(line["turns"]), "prompt_id": prompt_id})
