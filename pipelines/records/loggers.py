"""Where metrics go besides metrics.jsonl: TensorBoard, trackio, wandb. All write into the run folder, offline.

A logger is a convenience: one that fails is left out from then on, with one line for a person and one in events.jsonl,
and training goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from posttrain.configs.load import LoadedRecipe
from posttrain.errors import InputError

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan


class Logger(Protocol):
    """One place that metrics go to."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in STAGE/tensorboard: `tensorboard --logdir runs/NAME`."""

    def __init__(self, run_dir: Path, run: str, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run_dir / stage / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A database in trackio/ of the run folder: `TRACKIO_DIR=runs/NAME/trackio trackio show`."""

    def __init__(self, run_dir: Path, run: str, stage: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").resolve()))
        import trackio

        self._run: Any = trackio.init(project=run, name=stage, embed=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    """Offline runs in wandb/ of the run folder, for `wandb sync`; WANDB_MODE=online sends at once."""

    def __init__(self, run_dir: Path, run: str, stage: str) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True, console="off")
        self._run: Any = wandb.init(
            project=run, group=run, name=stage, dir=str(run_dir), mode=mode, reinit="create_new", settings=settings
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: Mapping[str, Callable[[Path, str, str], Logger]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _Wandb,
}
"""By their names in `logging.to`, which are their packages' names too."""


def check_loggers(loaded: LoadedRecipe, plan: Plan) -> None:
    """Raises InputError for a logger whose package isn't installed."""
    for name in loaded.recipe.logging.to:
        if find_spec(name) is None:
            fix = f"pip install 'posttrain[{name}]', or take it out of `logging.to`"
            raise InputError(f"`logging.to` names {name}, which isn't installed", fix=fix)


class SafeLoggers:
    """The loggers of one stage; none of them can stop it."""

    def __init__(
        self, names: Sequence[str], run_dir: Path, run: str, stage: str, warn: Callable[[str, Exception], None]
    ) -> None:
        self._warn = warn
        self._open: dict[str, Logger] = {}
        for name in names:
            self._try(name, lambda name=name: self._open.update({name: LOGGERS[name](run_dir, run, stage)}))  # type: ignore[misc]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step to all of them."""
        for name, logger in list(self._open.items()):
            self._try(name, lambda logger=logger: logger.log(step, metrics))  # type: ignore[misc]

    def close(self) -> None:
        for name, logger in list(self._open.items()):
            self._try(name, logger.close)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  whatever a logger raises, training goes on
            self._open.pop(name, None)
            self._warn(name, error)
