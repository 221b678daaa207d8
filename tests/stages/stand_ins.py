"""What several tests of the stages share: a context's stand-in, and a backward pass through a worker's own path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.configs.schema import Cluster, ModelSource
from posttrain.errors import Stopped
from posttrain.rewards.mixture.mix import Scorer
from posttrain.stages.actors.shard_pool import Here
from posttrain.stages.models.locations import Locations


class Context:
    """The parts of a stage's context that data stages without a model read. Told so, it stops at a later check."""

    def __init__(self, folder: Path, name: str, spec: Any, seed: int, stop_after: int | None = None) -> None:
        self.name, self.spec, self.seed, self.recipe_dir, self.dir = name, spec, seed, folder, folder / name
        self.artifact_dir, self.inputs, self.said = folder / "out", dict[str, Path](), list[str]()
        self.base, self.cluster = ModelSource.model_validate({"from": "builtin:tiny"}), Cluster()
        self.workers, self.progress, self.checks, self.stop_after = self, self, 0, stop_after

    @property
    def locations(self) -> Locations:
        return Locations(recipe_dir=self.recipe_dir, inputs=self.inputs, base=self.base)

    def scorer(self, uses: Any, locations: Any) -> Scorer:
        return Scorer(uses, recipe_dir=self.recipe_dir)

    def shards(self) -> Here:
        return Here()

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, *args: Any, **kwargs: Any) -> None: ...

    def advance(self, *args: Any) -> None: ...

    def check_stop(self) -> None:
        self.checks += 1
        if self.stop_after is not None and self.checks > self.stop_after:
            raise Stopped("stopped")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def backward(
    worker: Any, packed: Sequence[Any], loss: Any, states: Sequence[Any] | None = None
) -> tuple[float, dict[str, Any]]:
    """Loss and gradients through the worker's own path, without an optimizer step."""
    worker.policy.zero_grad()
    worker.engine.train()
    total = 0.0
    for number, batch in enumerate(packed):
        value, _ = worker._loss(batch, loss, None if states is None else states[number])
        worker.engine.set_gradient_accumulation_boundary(False)
        worker.engine.backward(value)
        total += value.item()
    return total, {n: p.grad.clone() for n, p in worker.policy.model.named_parameters() if p.grad is not None}
