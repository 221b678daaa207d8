"""`posttrain eval`: one model on suites, each a name of the package, a recipe's, a file, or lm-evaluation-harness's.

sums                 a suite of configs/suites.yaml
my.yaml:NAME         a suite of a recipe's `evaluate.suites`
questions.jsonl      rows with `prompt` and `answer`
lm-eval:TASK         a task of lm-evaluation-harness, by its own package
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from posttrain.configs.load import PACKAGED, LoadedRecipe, load_recipe, recipe_from_data
from posttrain.configs.loading.problems import closest
from posttrain.errors import InputError
from posttrain.pipelines.commands import eval_harness
from posttrain.pipelines.commands.distillation import absolute

if TYPE_CHECKING:
    from rich.console import Console

SUITES = PACKAGED.parent / "suites.yaml"
LM_EVAL = "lm-eval:"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the command line changes of a suite; None leaves it as it is."""

    k: int | None = None
    n: int | None = None
    modes: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    max_tokens: int | None = None


def packaged_suites() -> dict[str, Any]:
    """The suites of the package by name, as YAML has them."""
    return yaml.safe_load(SUITES.read_text("utf-8"))


def eval_model(
    model: str, names: Sequence[str], changes: Changes, *, run_dir: Path | None, console: Console
) -> tuple[int, dict[str, Any]]:
    """Evaluate `model`: the exit code, and {"model", "run_dir", "rows"} as `--json` prints it.

    Raises:
        InputError: there is no such model or suite, or lm-evaluation-harness isn't installed.
    """
    from posttrain.pipelines.graph.model_lookup import check_model_name
    from posttrain.pipelines.records.results import read_results
    from posttrain.pipelines.running.run import run_recipe

    check_model_name(model, Path.cwd())
    ours = [name for name in names if not name.startswith(LM_EVAL)]
    tasks = [name.removeprefix(LM_EVAL) for name in names if name.startswith(LM_EVAL)]
    code, rows, folder = 0, [], run_dir or Path("runs") / "eval"
    if tasks:
        eval_harness.require()
    if ours:
        code = run_recipe(evaluation(model, ours, changes), folder, console=console)
        rows = [{k: v for k, v in vars(row).items() if k != "stage"} for row in read_results(folder).rows]
    if tasks:
        rows += eval_harness.evaluate(model, tasks, limit=changes.n)
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return code, {"model": model, "run_dir": str(folder) if ours else None, "rows": plain}


def harness_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of lm-evaluation-harness for people: one number a line, with its interval where there is one."""
    return [
        f"{row['suite']}:{row['metric']} = {row['value']:.3f}"
        + ("" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]")
        + f" (n={row['n']})"
        for row in rows
        if row["suite"].startswith(LM_EVAL)
    ]


def evaluation(model: str, names: Sequence[str], changes: Changes) -> LoadedRecipe:
    """A recipe of one `evaluate` stage. Raises InputError."""
    recipe_dir, suites = Path.cwd(), []
    for name in names:
        suite, home = _suite(name)
        if home is not None:
            if recipe_dir not in (Path.cwd(), home):
                raise InputError("suites of two recipes", where=name, fix="evaluate one after the other")
            recipe_dir = home
        suites.append(_changed(suite, changes))
    stage = {"kind": "evaluate", "model": absolute(model), "suites": suites}
    return recipe_from_data({"name": "eval", "stages": {"evaluation": stage}}, recipe_dir, "<eval>")


def _suite(name: str) -> tuple[dict[str, Any], Path | None]:
    """The suite as YAML has it, and the folder where its paths start if that isn't the current one."""
    file, colon, inside = name.rpartition(":")
    if colon and Path(file).suffix in (".yaml", ".yml"):
        loaded = load_recipe(file)
        written = {suite["name"]: suite for suite in (loaded.raw.get("evaluate") or {}).get("suites", ())}
        if inside not in written:
            raise InputError(f"no suite {inside!r}; {closest(inside, written)}", where=file)
        return dict(written[inside]), loaded.path.resolve().parent
    if Path(name).suffix in (".jsonl", ".parquet") or name.startswith(("builtin:", "hf:", "reasoning_gym:")):
        stem = "".join(c if c.isalnum() or c in "_.-" else "-" for c in Path(name).stem)
        return {"name": stem, "prompts": absolute(name), "sampling": {"max_tokens": 512}}, None
    packaged = packaged_suites()
    if name not in packaged:
        what = f"no suite {name!r}; {closest(name, packaged)}"
        raise InputError(what, fix="name one of the package, recipe.yaml:NAME, a .jsonl file, or lm-eval:TASK")
    return {"name": name, **packaged[name]}, None


def _changed(suite: dict[str, Any], changes: Changes) -> dict[str, Any]:
    suite = json.loads(json.dumps(suite))
    if changes.k is not None:
        suite["k"] = changes.k
        suite["pass_at"] = [k for k in _powers(changes.k) if k <= changes.k] if changes.k > 1 else []
    if changes.modes:
        suite["modes"] = list(changes.modes)
    if changes.rewards:
        suite["rewards"] = list(changes.rewards)
    if changes.max_tokens is not None:
        suite["sampling"] = {**suite.get("sampling", {}), "max_tokens": changes.max_tokens}
    if changes.n is not None:
        for field in ("prompts", "tasks"):
            sources = suite.get(field, [])
            sources = sources if isinstance(sources, list) else [sources]
            short = "from" if field == "prompts" else "use"
            mappings = [{short: source} if isinstance(source, str) else source for source in sources]
            suite[field] = [{**source, "n": changes.n} for source in mappings]
        suite = {key: value for key, value in suite.items() if value != []}
    return suite


def _powers(k: int) -> list[int]:
    """1, 4, 16, ... and k itself: the points of a pass@k curve."""
    return sorted({*(4**i for i in range(k.bit_length())), k})
