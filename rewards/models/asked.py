"""Which model a reward asks: what `judge:` and `model:` of a recipe must say, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.configs.schema import RewardUse
from posttrain.errors import InputError
from posttrain.rewards.contract import BuiltinReward

MODEL_FIELDS: Mapping[str, str] = {"chat": "judge", "reward_model": "model"}
"""What a built-in needs, and the field of its use that names it."""

_WRITE = {
    "judge": "judge: {endpoint: https://HOST/v1, model: NAME, api_key: ${OPENAI_API_KEY}}, or judge: {from: STAGE}, "
    "with a stage, `base`, a folder or a Hub id",
    "model": "model: FOLDER, or a Hub id of a sequence-classification checkpoint",
}
_ON_THE_COMMAND_LINE = {
    "judge": """in `posttrain rewards score`, --judge '{"endpoint": "https://HOST/v1", "model": "NAME"}'""",
    "model": "in `posttrain rewards score`, --model FOLDER",
}


def check_models(use: RewardUse, builtin: BuiltinReward | None) -> None:
    """Raises InputError where a reward lacks the model it asks, or is given one that it doesn't ask.

    `builtin` is None for a function that a recipe names by module or path: it is handed no model.
    """
    needed = MODEL_FIELDS.get(builtin.needs) if builtin is not None else None
    for field, given in (("judge", use.judge), ("model", use.model)):
        if field == needed and given is None:
            raise InputError(
                f"reward {use.use!r} asks a model, and no `{field}` names one",
                where="rewards",
                fix=f"write {_WRITE[field]}; {_ON_THE_COMMAND_LINE[field]}",
            )
        if field != needed and given is not None:
            takes = f"`{needed}` names the model it asks" if needed else "it asks no model"
            raise InputError(f"reward {use.use!r} takes no `{field}`: {takes}", where="rewards", fix="leave it out")
    if use.model is not None and (use.model.layers is not None or use.model.scratch is not None):
        raise InputError(
            f"reward {use.use!r}: a reward model is used whole", where="rewards", fix="write its name only"
        )
