"""A stage's key: the hash of all that decides its result, and of nothing else.

In: the stage's name, fields with defaults and seed, the keys of the stages it needs, the base, the content of
every file it names. Out: the cluster, logging, thresholds, and fields that only say how to get there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.loading.references import has_reference, resolve
from posttrain.configs.nodes.judges import HOW
from posttrain.pipelines.graph.dag import Node, Reference
from posttrain.pipelines.graph.model_lookup import model_folder
from posttrain.stages.models import smollm2

VERSION = 1
"""Raised when the meaning of a recipe changes, so that old results don't pass for new ones."""

NOT_SEMANTIC = frozenset({"keep_checkpoints", "checkpoint_every", "micro_tokens", "control", "gate"})

HOW_CONFINED = frozenset({"confine", "needs"})
"""Fields of a reward or an environment (what has `use`) that decide what it may do, and not what it computes."""

_CREDENTIAL = re.compile(r"\$\{\w*(TOKEN|KEY|SECRET|PASSWORD)\w*(:-[^}]*)?\}", re.IGNORECASE)

_CACHE_FROM = 1 << 20
"""Smaller files are hashed each time: cheaper than trusting their dates."""


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """A key and what it was made of."""

    key: str
    payload: Mapping[str, Any]


@dataclass
class Hashes:
    """sha256 of files; those of large ones are remembered by (path, size, mtime_ns)."""

    known: dict[str, str] = field(default_factory=dict)

    def file(self, path: Path) -> str:
        """The sha256 of a file's content."""
        stat = path.stat()
        # A digest: the path may hold a value of the environment, and what is known is written down.
        name = digest_of([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        if stat.st_size >= _CACHE_FROM and name in self.known:
            return self.known[name]
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if stat.st_size >= _CACHE_FROM:
            self.known[name] = digest
        return digest

    def folder(self, path: Path) -> str:
        """One hash over names and contents of all files below `path`, hidden ones aside."""
        files = sorted(p for p in path.rglob("*") if p.is_file())
        visible = [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        return digest_of({p.relative_to(path).as_posix(): self.file(p) for p in visible})


def stage_keys(loaded: LoadedRecipe, dag: Mapping[str, Node], hashes: Hashes) -> dict[str, StageKey]:
    """The keys of all stages of `dag`, which is in running order."""
    keys: dict[str, StageKey] = {}
    for name, node in dag.items():
        payload = {
            "version": VERSION,
            "name": name,  # seeds derive from it
            "kind": node.spec.kind,
            "seed": loaded.resolved["seed"] if node.spec.seed is None else node.spec.seed,
            "spec": _without_confinement(_semantic(loaded, node)),
            "inputs": {needed: keys[needed].key for needed in node.inputs},
            "base": _base(loaded, node, hashes),
            "files": _files(loaded, node, hashes),
        }
        keys[name] = StageKey(key=digest_of(payload), payload=payload)
    return keys


def digest_of(data: Any) -> str:
    """sha256 of canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _semantic(loaded: LoadedRecipe, node: Node) -> dict[str, Any]:
    if node.at[0] == "evaluate":  # expanded: the suites' own nodes, with their references to the environment
        names = {suite.name for suite in node.declaration.suites}
        suites = [_judged(suite) for suite in loaded.resolved["evaluate"]["suites"] if suite["name"] in names]
        return {
            "kind": "evaluate",
            "model": {"from": node.evaluates},
            "suites": _with_values(suites, loaded.recipe_dir),
        }
    fields = _judged(loaded.resolved["stages"][node.name])
    for name in ("endpoint", "judge"):
        if isinstance(fields.get(name), dict):
            fields[name] = {key: value for key, value in fields[name].items() if key not in HOW}
    if "suites" in fields:
        fields["suites"] = [_judged(suite) for suite in fields["suites"]]
    kept = {key: value for key, value in fields.items() if key not in NOT_SEMANTIC}
    return {key: _with_values(value, loaded.recipe_dir) for key, value in kept.items()}


def _without_confinement(node: Any) -> Any:
    """`node` without `HOW_CONFINED`: a function gives the same numbers with the rights that it needs."""
    if isinstance(node, Mapping):
        dropped = HOW_CONFINED if "use" in node else frozenset()
        return {key: _without_confinement(value) for key, value in node.items() if key not in dropped}
    return [_without_confinement(value) for value in node] if isinstance(node, list) else node


def _judged(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's or suite's fields, its rewards without how their judges are asked.

    A reward that asks no model keeps the key that it had before rewards could.
    """
    if "rewards" not in fields:
        return dict(fields)
    rewards = []
    for use in fields["rewards"]:
        kept = {name: value for name, value in use.items() if name not in ("judge", "model") or value is not None}
        if "judge" in kept:
            kept["judge"] = {name: value for name, value in kept["judge"].items() if name not in HOW}
        rewards.append(kept)
    return {**fields, "rewards": rewards}


def _with_values(node: Any, recipe_dir: Path) -> Any:
    """`node` with a digest beside each reference to the environment: another value is another key.

    A credential decides no result, and a file counts by its content: neither has one.
    """
    if isinstance(node, dict):
        return {key: _with_values(value, recipe_dir) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_values(value, recipe_dir) for value in node]
    if not has_reference(node) or _CREDENTIAL.search(node):
        return node
    value = str(resolve(node, os.environ, lambda path, name: None))
    return node if (recipe_dir / Path(value).expanduser()).exists() else f"{node} ({digest_of(value)[:12]})"


def _base(loaded: LoadedRecipe, node: Node, hashes: Hashes) -> Any:
    if not any(reference.what == "base" for reference in node.references) or loaded.recipe.base is None:
        return None
    base = _with_values(loaded.resolved["base"], loaded.recipe_dir)
    return {"model": base, "content": _model_content(loaded.recipe.base.source, loaded, hashes)}


def _files(loaded: LoadedRecipe, node: Node, hashes: Hashes) -> dict[str, str]:
    """Content of each file that the stage names, by the name the recipe gives it."""
    return {
        **{_label(loaded, ref): hashes.file(ref.path) for ref in node.references if ref.what == "file" and ref.path},
        **{
            _label(loaded, ref): content
            for ref in node.references
            if ref.wants == "model" and (content := _model_content(ref.source, loaded, hashes))
        },
        **{_relative(path, loaded): hashes.file(path) for path in reward_files(loaded, node)},
    }


def _model_content(source: str, loaded: LoadedRecipe, hashes: Hashes) -> str | None:
    """The hash of a model's files; None where the name alone doesn't say where they are."""
    if source == smollm2.NAME:  # converted at first use: what it will be is known without its files
        return smollm2.smollm2_content()
    folder = model_folder(source, loaded.recipe_dir)
    return hashes.folder(folder) if folder else None


def reward_files(loaded: LoadedRecipe, node: Node) -> list[Path]:
    """The files of rewards, environments and kinds of stage that are named by path, and those that an environment is
    given."""
    uses = [node.spec.kind, *(use.use for use in node.rewards), *(use.use for use in node.environments)]
    named = tuple(use for use in uses if ":" in use)
    values = [value for use in node.environments for value in use.params.values() if isinstance(value, str)]
    given = [path for value in values if (path := loaded.recipe_dir / Path(value).expanduser()).is_file()]
    if not named and not given:  # built-ins only: their code is ours, which VERSION covers
        return []
    from posttrain.rewards.base import files_of

    return [*files_of(named, loaded.recipe_dir), *given]


def _label(loaded: LoadedRecipe, reference: Reference) -> str:
    return loaded.mask(reference.source)


def _relative(path: Path, loaded: LoadedRecipe) -> str:
    try:
        return path.resolve().relative_to(loaded.recipe_dir).as_posix()
    except ValueError:
        return loaded.mask(str(path))
