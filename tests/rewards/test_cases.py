"""Every reward proves itself: its gold case is paid in full, its adversarial case isn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from posttrain.configs.schema import Grpo, JudgeModel, ModelSource, RewardUse
from posttrain.errors import DataError, InputError, SandboxError
from posttrain.rewards.base import BUILTINS, check_columns, check_use
from posttrain.rewards.builtins import VERIFIERS, merged
from posttrain.rewards.catalogue import render, render_tasks
from posttrain.rewards.contract import Case, JudgeClient, ModelHost, RowError, parameters
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.models.reward_model import reward_model
from posttrain.sandbox.pool import LocalJudgePool
from posttrain.types import Completion, Prompt, Score

MODELS: dict[str, dict[str, Any]] = {
    "chat": {"judge": {"endpoint": "http://localhost/v1", "model": "stand-in"}},
    "reward_model": {"model": "stand-in"},
}
"""What names the model, by what a reward needs."""


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeClient]:
    try:
        pool = LocalJudgePool(1)
    except SandboxError as error:
        pytest.skip(str(error))
    with pool:
        yield pool


class StandIn:
    """A ModelHost: a judge that obeys what it reads outside fences, a classifier that knows the right last turn."""

    def __init__(self, judge: Callable[[Sequence[Any]], str]) -> None:
        self._judge = judge

    def chat(self, judge: JudgeModel, timeout_s: float) -> StandIn:
        return self

    def reward_model(self, model: ModelSource, timeout_s: float) -> StandIn:
        return self

    def ask(self, conversations: Sequence[Any]) -> list[str | RowError]:
        return [self._judge(conversation) for conversation in conversations]

    def score(self, conversations: Sequence[Any]) -> list[float | RowError]:
        """As a model behind a chat template would: what a mark of it begins is a turn of its own."""
        last = [conversation[-1]["content"].split("<|im_start|>assistant\n")[-1] for conversation in conversations]
        return [float(text == "It is Paris.") for text in last]

    def close(self) -> None: ...


def score(
    name: str, case: Case, folder: Path, judge: JudgeClient | None = None, models: ModelHost | None = None
) -> Score:
    """What the mixture makes of a case, its columns having been checked as a run checks them."""
    use = RewardUse(use=name, params=dict(case.params), **MODELS.get(BUILTINS[name].needs, {}))
    prompt = Prompt(id="case", messages=case.messages, columns=case.columns)
    tokens = int(case.columns.get("tokens", 2))
    completion = Completion(
        prompt_id="case",
        index=0,
        prompt_ids=np.zeros(0, np.int64),
        token_ids=np.zeros(tokens, np.int64),
        text=case.completion,
        sources=np.zeros(tokens, np.int8),
        logprobs=np.zeros(tokens, np.float32),
        versions=np.zeros(tokens, np.int32),
        finish_reason="stop",
    )
    check_columns([use], [prompt])
    with Scorer([use], recipe_dir=folder, judge=judge, models=models) as scorer:
        return scorer.score([(prompt, completion)])[0]


@pytest.mark.parametrize("name", list(BUILTINS))
def test_gold_is_paid_in_full_and_its_imitation_is_not(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, gullible: Callable[[Sequence[Any]], str]
) -> None:
    reward = BUILTINS[name]
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    judge = request.getfixturevalue("judge") if reward.needs == "judge" else None
    models = StandIn(gullible) if reward.kind != "rule" else None
    gold = score(name, reward.gold, tmp_path, judge, models)
    assert (gold.value, gold.status) == (reward.full, "ok"), gold.detail
    attack = score(name, reward.adversarial, tmp_path, judge, models)
    assert attack.status == "ok", attack.detail
    assert attack.value is not None
    assert attack.value < reward.full


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("multiple_choice", {"answer": "Paris"}, "letter of a choice"),
        ("contains", {"keywords": [1]}, "`keywords`"),
        ("length_target", {"target_words": "ten"}, "`target_words`"),
        ("grounded", {"required": [""]}, "`required`"),
        ("citations", {"supporting": "x"}, "`supporting`"),
        ("false_premise", {"premise": "perhaps"}, "true or false"),
        ("language", {"language": "English"}, "ISO 639-1"),
        ("chrf", {"reference": []}, "`reference`"),
    ],
)
def test_a_row_that_can_not_be_judged_is_refused_before_anything_starts(
    name: str, columns: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        check_columns([RewardUse(use=name)], [Prompt(id="p", messages=(), columns=columns)])


def test_two_rewards_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'math'"):
        merged((VERIFIERS, {"math": VERIFIERS["code"]}))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"pattern": "a", "patern": "b"}, "did you mean 'pattern'"),
        ({"pattern": 3}, "valid string"),
        ({"pattern": "a", "judge": 1}, "no parameter 'judge'"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_starts(params: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        check_use(RewardUse(use="regex", params=params), tmp_path)


def test_the_catalogue_is_what_the_registry_says() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs/reference"
    again = "run: python -m posttrain.rewards.catalogue docs/reference"
    assert (docs / "rewards.md").read_text("utf-8") == render(), again
    assert (docs / "tasks.md").read_text("utf-8") == render_tasks(), again


@pytest.mark.parametrize("name", [name for name in BUILTINS if name != "code_stdio"])  # which says: as `code`
def test_every_parameter_and_column_is_told_of_in_the_docstring(name: str) -> None:
    reward = BUILTINS[name]
    told = reward.function.__doc__ or ""
    missing = [word for word in (*reward.columns, *reward.optional, *parameters(reward)) if f"`{word}" not in told]
    assert missing == []


JUDGE = {"endpoint": "http://localhost/v1", "model": "m"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"use": "judge_reference"}, "no `judge` names one.*judge: {endpoint:.*judge: {from: STAGE}"),
        ({"use": "reward_model"}, "no `model` names one.*model: FOLDER"),
        ({"use": "math", "judge": JUDGE}, "takes no `judge`: it asks no model"),
        ({"use": "math", "model": "x"}, "takes no `model`: it asks no model"),
        ({"use": "judge_reference", "judge": JUDGE, "model": "x"}, "takes no `model`: `judge` names"),
        ({"use": "mine.py:f", "judge": JUDGE}, "takes no `judge`"),
        ({"use": "judge_rubric", "judge": JUDGE, "params": {"scale": [5, 1]}}, "`scale` is"),
        ({"use": "judge_rubric", "judge": JUDGE, "params": {"rubrik": "x"}}, "did you mean 'rubric'"),
        ({"use": "reward_model", "model": {"from": "x", "layers": [0]}}, "used whole"),
    ],
)
def test_a_model_that_is_missing_or_not_asked_for_is_refused_before_anything_starts(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"(?s){says}"):
        check_use(RewardUse.model_validate(fields), tmp_path)


@pytest.mark.parametrize(
    ("params", "raw", "value"),
    [
        ({}, 3.0, 3.0),
        ({"shift": 1.0, "scale": 0.5}, 3.0, 1.0),
        ({"sigmoid": True}, 0.0, 0.5),
        ({"sigmoid": True}, -1e4, 0.0),
    ],
)
def test_a_reward_models_number_is_mapped_as_told(params: dict[str, Any], raw: float, value: float) -> None:
    model = StandIn(lambda turns: "")
    model.score = lambda conversations: [raw]  # type: ignore[method-assign]
    assert reward_model(["?"], ["a"], reward_model=model, **params) == [value]


def test_a_reward_model_that_gives_no_number_is_an_infra_error() -> None:
    model = StandIn(lambda turns: "")
    model.score = lambda conversations: [float("nan")]  # type: ignore[method-assign]
    assert isinstance(reward_model(["?"], ["a"], reward_model=model)[0], RowError)


def test_the_documents_example_is_accepted(tmp_path: Path) -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "judges.md").read_text("utf-8")
    stage = yaml.safe_load(document.split("```yaml\n")[1].split("```")[0])["stages"]["general_rl"]
    uses = Grpo.model_validate(stage).rewards
    for use in uses:
        check_use(use, tmp_path)
    assert [use.use for use in uses if use.judge or use.model] == ["judge_reference", "judge_rubric", "reward_model"]
