"""Everything that is checked before a run starts: by `posttrain plan --check` and by `posttrain run` alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.pipelines.preflight.data_checks import DataRead, check_data
from posttrain.pipelines.preflight.judge_checks import check_judges
from posttrain.pipelines.preflight.machine_checks import check_machine
from posttrain.pipelines.preflight.sandbox_checks import check_sandbox
from posttrain.pipelines.records.loggers import check_loggers

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan

CHECKS: tuple[Callable[[LoadedRecipe, Plan], DataRead | None], ...] = (
    check_loggers,
    check_machine,
    check_data,
    check_sandbox,
    check_judges,
)
"""What is cheap, or asks nobody else, comes first."""


def preflight(loaded: LoadedRecipe, plan: Plan) -> DataRead:
    """Check what the pending stages of a plan need; returns what the data hold.

    Raises:
        InputError: the data, the rewards, this machine, the sandbox, a judge or a logger isn't as the run needs it.
    """
    found = DataRead([], [])
    with loaded.masking():
        for check in CHECKS:
            found = check(loaded, plan) or found
    return found
