"""Tasks of lm-evaluation-harness, by its own package: its prompts, its metrics, its standard errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import InputError
from posttrain.stages.models.locations import builtin_path

NORMAL_95 = 1.96


def require() -> None:
    """Raises InputError where the package isn't installed."""
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        what = "`--suite lm-eval:TASK` needs the package lm-eval"
        raise InputError(what, fix="pip install 'posttrain[lm-eval]'")


def evaluate(model: str, tasks: Sequence[str], *, limit: int | None) -> list[dict[str, Any]]:
    """Rows of the tasks: {suite, mode, metric, value, low, high, n}. A task is a name, or a .yaml file of one.

    The intervals are the harness's standard errors times 1.96: it gives no answers by question to draw from.

    Raises:
        InputError: the harness knows no such task, or a task's data, or the model, can't be loaded.
    """
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folders = sorted({str(Path(task).resolve().parent) for task in tasks if task.endswith((".yaml", ".yml"))})
    manager = TaskManager(include_path=folders or None)
    names = [_task_name(task) for task in tasks]
    known = set(manager.all_tasks)
    if missing := [name for name in names if name not in known]:
        raise InputError(f"lm-evaluation-harness has no task {missing[0]!r}", fix="list them: lm-eval ls tasks")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = HFLM(pretrained=builtin_path(model) or model, device=device)
        if not sys.stderr.isatty():
            for name in _WITH_BARS:
                setattr(asked, name, _without_bar(getattr(asked, name)))
        found = lm_eval.simple_evaluate(
            model=asked, tasks=names, limit=limit, task_manager=manager, bootstrap_iters=1000
        )
    except OSError as error:  # also what datasets raises where it reaches no hub
        what = f"can't load {model} or the data of {', '.join(names)}: {str(error).splitlines()[0]}"
        fix = "check the name and the connection; or write a task file over data of your own: lm-eval:task.yaml"
        raise InputError(what, fix=fix) from None
    counts = {name: count["effective"] for name, count in found.get("n-samples", {}).items()}
    return [row for name, metrics in found["results"].items() for row in _rows(name, metrics, counts.get(name, 0))]


_WITH_BARS = ("generate_until", "loglikelihood", "loglikelihood_rolling", "_loglikelihood_tokens")
"""Methods of the harness's model whose bar is drawn whatever TQDM_DISABLE says."""


def _without_bar(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: call(*args, **{**kwargs, "disable_tqdm": True})


def _task_name(task: str) -> str:
    if not task.endswith((".yaml", ".yml")):
        return task
    import yaml

    path = Path(task)
    if not path.is_file():
        raise InputError("there is no such task file", where=task)
    return str(yaml.safe_load(path.read_text("utf-8"))["task"])


def _rows(task: str, metrics: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The harness's `metric,filter` entries, each with its `metric_stderr,filter`."""
    rows = []
    for key, value in metrics.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = metrics.get(f"{metric}_stderr,{chosen}")
        half = NORMAL_95 * error if isinstance(error, int | float) else float("nan")
        name = metric if chosen == "none" else f"{metric},{chosen}"
        rows.append(
            {"suite": f"lm-eval:{task}", "mode": "default", "metric": name, "value": float(value),
             "low": value - half, "high": value + half, "n": n}
        )  # fmt: skip
    return rows
