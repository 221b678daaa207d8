"""The thinking budget, counted in ids, where rollouts, evaluations and `posttrain generate` ask for it.

The model is a chain whose next token is certain: it opens a block, thinks the same token without end, and, once the
block is closed, answers with one token and stops. So every id of every completion is known beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.configs.schema import Evaluate, RolloutCluster
from posttrain.stages import evaluate
from posttrain.stages.data.store import read_rows
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.generation import generate_text
from posttrain.stages.rollout.pool import RolloutWorker
from posttrain.thinking import EARLY_STOP, split_thinking
from posttrain.types import Mode, Prompt, SamplingParams, Source

from ..stand_ins import Context, write

MOST = 60
BUDGETS = [None, 0, 1, 2, 7, 30, MOST - 1, MOST, 10 * MOST]


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer)


@pytest.fixture(scope="module")
def words(chat: ChatFormat) -> dict[str, int]:
    """The ids that the chain is made of."""
    names = {"line": "\n", "gap": "\n\n", "thought": "x", "answer": "4"}
    found = {name: chat.tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in names.items()}
    assert all(len(ids) == 1 for ids in found.values())
    return {name: ids[0] for name, ids in found.items()}


@pytest.fixture(scope="module")
def chain(random_model: Path, chat: ChatFormat, words: dict[str, int], tmp_path_factory: Any) -> Path:
    """A Qwen3 whose layers do nothing: its output is a table from each token to the next."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32, tie_word_embeddings=False)
    following = {
        words["line"]: chat.open_id, chat.open_id: words["thought"], words["thought"]: words["thought"],
        words["gap"]: words["answer"], words["answer"]: chat.end_of_turn,
    }  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "lm_head.weight")):
                parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, -1] = 1.0
        for place, (token, after) in enumerate(following.items()):
            model.model.embed_tokens.weight[token] = 0.0
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[after, place] = 10.0
    folder = tmp_path_factory.mktemp("chain")
    model.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def worker(chain: Path) -> RolloutWorker:
    made = RolloutWorker(RolloutCluster(), 1)
    made.load(ModelSpec(path=str(chain)))
    return made


def expected(chat: ChatFormat, words: dict[str, int], budget: int | None, most: int = MOST) -> tuple[list[int], int]:
    """All ids of a thinking completion, and how many of them are injected."""
    thinking = most if budget is None else budget
    forced = [] if budget is None else list(chat.empty_block if budget == 0 else chat.early_stop)
    whole = [chat.open_id, *[words["thought"]] * thinking, *forced, words["answer"], chat.end_of_turn]
    kept = [token for token in whole[:most] if token is not None]
    return kept, max(0, min(len(forced), most - 1 - thinking))


def asked(mode: Mode = "think") -> Prompt:
    return Prompt(id="q", messages=({"role": "user", "content": "2+2?"},), mode=mode, columns={"answer": "4"})


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_rollout_has_the_ids_that_its_budget_allows_and_no_other(
    worker: RolloutWorker, chat: ChatFormat, words: dict[str, int], budget: int | None
) -> None:
    params = SamplingParams(max_tokens=MOST, thinking_budget=budget)
    (group,) = worker.generate([asked()], 2, params, seed=1)
    ids, injected = expected(chat, words, budget)
    for completion in group.completions:
        assert completion.token_ids.tolist() == ids
        sources = completion.sources.tolist()
        assert sources.count(Source.INJECTED) == injected
        begin = 1 + (budget or 0)
        assert sources[begin : begin + injected] == [Source.INJECTED] * injected
        assert completion.finish_reason == ("stop" if ids[-1] == chat.end_of_turn else "length")
        assert not completion.logprobs[np.flatnonzero(completion.sources == Source.INJECTED)].any()


@pytest.mark.parametrize("budget", [0, 3])
def test_the_hard_switch_has_nothing_to_spend(
    worker: RolloutWorker, chat: ChatFormat, words: dict[str, int], budget: int
) -> None:
    params = SamplingParams(max_tokens=MOST, thinking_budget=budget)
    (group,) = worker.generate([asked("closed")], 1, params, seed=1)
    assert group.completions[0].token_ids.tolist() == [words["answer"], chat.end_of_turn]


def test_budgets_of_one_batch_are_counted_for_each_sequence_by_itself(
    worker: RolloutWorker, chat: ChatFormat, words: dict[str, int]
) -> None:
    prompts = [
        Prompt(id=str(i), messages=({"role": "user", "content": "1+" * i + "1?"},), mode=mode)
        for i, mode in enumerate(("think", "closed", "default", "no_think"))
    ]
    groups = worker.generate(prompts, 1, SamplingParams(max_tokens=MOST, thinking_budget=5), seed=1)
    ids, _ = expected(chat, words, 5)
    found = {group.prompt.id: group.completions[0].token_ids.tolist() for group in groups}
    assert found == {"0": ids, "1": [words["answer"], chat.end_of_turn], "2": ids, "3": ids}


class Here(Context):
    """A context whose rollout workers are one worker in this process."""

    held: RolloutWorker

    def rollout(self) -> Here:
        return self

    def load(self, spec: ModelSpec, seed: int) -> None: ...

    def generate(self, prompts: Any, n: int, params: SamplingParams, *, seed: int) -> Any:
        return self.held.generate(prompts, n, params, seed)

    def environment(self, use: Any) -> Any: ...

    def free(self) -> None: ...


def test_an_evaluation_by_budget_counts_the_same_ids(
    tmp_path: Path, chain: Path, worker: RolloutWorker, chat: ChatFormat, words: dict[str, int]
) -> None:
    write(tmp_path / "rows.jsonl", [{"id": "q", "prompt": "2+2?", "answer": "4"}])
    budgets = [budget for budget in BUDGETS if budget is not None]
    suite = {
        "name": "s", "measure": "budget", "prompts": "rows.jsonl", "rewards": "exact", "modes": ["think", "closed"],
        "budgets": budgets, "sampling": {"max_tokens": MOST},
    }  # fmt: skip
    spec = Evaluate.model_validate({"kind": "evaluate", "model": str(chain), "suites": [suite]})
    context = Here(tmp_path, "table", spec, seed=1)
    context.held = worker
    context.artifact_dir.mkdir()
    evaluate.run(context)  # type: ignore[arg-type]
    tokens = {row["ask"]: row["tokens"] for row in read_rows(context.artifact_dir / "completions.parquet")}
    thinking = {f"think@{budget}": len(expected(chat, words, budget)[0]) for budget in budgets}
    assert tokens == thinking | {f"closed@{budget}": 2 for budget in budgets}
    table = json.loads((context.artifact_dir / "table.json").read_text())["rows"]
    right = {row["metric"]: row["value"] for row in table if row["mode"] == "think"}
    ends = {f"accuracy@{b}": float(expected(chat, words, b)[0][-1] == chat.end_of_turn) for b in budgets}
    assert right == ends


@pytest.mark.parametrize("budget", BUDGETS)
def test_generate_counts_the_same_ids(chain: Path, chat: ChatFormat, words: dict[str, int], budget: int | None) -> None:
    found = generate_text(str(chain), "2+2?", thinking_budget=budget, max_tokens=MOST)
    ids, _ = expected(chat, words, budget)
    split = split_thinking(chat.decode(ids))
    assert found == {"thinking": split.thinking, "answer": split.answer, "tokens": len(ids)}
    if budget == 7:
        assert found["thinking"] == "x" * 7 + EARLY_STOP.partition("\n</think>")[0]


def test_generate_without_thinking_spends_no_budget(chain: Path) -> None:
    found = generate_text(str(chain), "2+2?", no_think=True, thinking_budget=7, max_tokens=MOST)
    assert found == {"thinking": "", "answer": "4", "tokens": 2}
