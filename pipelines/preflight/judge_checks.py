"""Judges at endpoints, asked before the start: they answer, keep to the form, and take no orders from answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import JudgeModel, RewardUse
from posttrain.errors import InputError, RewardError

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan


def check_judges(loaded: LoadedRecipe, plan: Plan) -> None:
    """Ask each judge at an endpoint, of the stages that need work, about two answers of known worth.

    Raises:
        InputError: it can't be asked, doesn't keep to the form, or an answer that orders it to grade well is graded so.
    """
    from posttrain.rewards.mixture.gold import check_judge

    for stage in plan.pending:
        for judge in stage.node.declaration.endpoints:
            if judge.endpoint is not None:
                _check_endpoint(judge, loaded.where(stage.node.at))
    tried: list[RewardUse] = []
    for stage in plan.pending:
        for use in stage.node.rewards:
            if use.judge is None or use.judge.endpoint is None or any(_alike(use, other) for other in tried):
                continue
            tried.append(use)
            try:
                check_judge(use, loaded.recipe_dir)
            except InputError as error:
                raise type(error)(error.what, where=loaded.where(stage.node.at), fix=error.fix) from None


def _check_endpoint(judge: JudgeModel, where: str) -> None:
    """Raises InputError if the endpoint of a data stage answers nothing at all."""
    from posttrain.rewards.contract import RowError
    from posttrain.rewards.models.endpoint import EndpointHost

    host = EndpointHost()
    try:
        small = judge.model_copy(update={"retries": 0})
        (answer,) = host.chat(small, judge.timeout).ask([[{"role": "user", "content": "Say: ready."}]])
    except RewardError as error:
        raise InputError(error.what, where=where, fix=error.fix) from None
    finally:
        host.close()
    # Cut off is an answer, too: a model that thinks may need more tokens than a greeting gets.
    if isinstance(answer, RowError) and "was cut" not in answer.detail:
        raise InputError(answer.detail, where=where, fix="check `endpoint` (with its /v1), `model` and `api_key`")


def _alike(use: RewardUse, other: RewardUse) -> bool:
    return (use.use, use.judge, use.params.get("scale")) == (other.use, other.judge, other.params.get("scale"))
