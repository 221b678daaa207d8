"""What each stage cost: time, and tokens generated and trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.pipelines.records.logs import read_metrics
from posttrain.pipelines.records.results import RunResults


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """None: not known."""

    seconds: float | None
    generated: int | None
    trained: int | None


def stage_costs(results: RunResults) -> dict[str, StageCost]:
    """The cost of every stage that began."""
    return {name: _cost(results.run_dir / name, state) for name, state in results.states.items()}


def _cost(folder: Path, state: Mapping[str, Any]) -> StageCost:
    lines = read_metrics(folder / "metrics.jsonl")

    def total(name: str) -> int | None:
        values = [line[name] for line in lines if isinstance(line.get(name), int | float)]
        return int(sum(values)) if values else None

    generated = total("generated_tokens")
    if generated is None and "generated_tokens" in state["metrics"]:
        generated = int(state["metrics"]["generated_tokens"])
    return StageCost(
        seconds=state["seconds"],
        generated=_evaluated(folder / "artifact" / "completions.parquet") if generated is None else generated,
        trained=total("tokens"),
    )


def _evaluated(path: Path) -> int | None:
    """Tokens of the completions that an evaluation kept."""
    if not path.exists():
        return None
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        return int(pc.sum(pq.read_table(path, columns=["tokens"])["tokens"]).as_py() or 0)
    except (pa.ArrowException, OSError, KeyError):
        return None
