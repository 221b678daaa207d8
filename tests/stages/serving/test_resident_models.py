"""Models that rewards ask and the run holds: scores don't depend on batches, what isn't a reward model is refused."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.configs.schema import Cluster, JudgeModel, ModelSource, RolloutCluster
from posttrain.errors import InputError, RewardError
from posttrain.rewards.cli import score_lines
from posttrain.rewards.contract import RowError
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.models.locations import Locations
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.serving.process_host import ProcessHost
from posttrain.stages.serving.resident_models import ModelActors, ResidentModel, RunHost
from posttrain.stages.serving.reward_models import RewardModelWorker

SETTINGS = RolloutCluster(threads=1, batch=5)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


CONVERSATIONS = [
    turns(f"{'1+' * (i % 7)}2=?", "<think>\n\n</think>\n\n" + "so " * (5 * i % 13) + str(i)) for i in range(12)
]


@pytest.fixture(scope="module")
def worker(classifier: Path) -> RewardModelWorker:
    made = RewardModelWorker(SETTINGS, 2)
    made.load(ModelSpec(path=str(classifier)))
    return made


def test_a_score_is_that_of_the_last_token_whoever_shares_the_batch(worker: RewardModelWorker) -> None:
    together = worker.score(CONVERSATIONS)
    for conversation, score in zip(CONVERSATIONS, together, strict=True):
        ids = worker.tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        with torch.no_grad():  # written out: the base model's last state through the head, without padding
            hidden = worker.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
            expected = float(worker.model.score(hidden[0, -1])[0])
        assert score == pytest.approx(expected, abs=1e-4)
    assert len({round(float(score), 4) for score in together if isinstance(score, float)}) == len(CONVERSATIONS)


def test_a_conversation_that_is_too_long_costs_itself(worker: RewardModelWorker) -> None:
    short, long = worker.score([CONVERSATIONS[3], turns("?", "x " * 600)])
    assert isinstance(short, float)
    assert isinstance(long, RowError)
    assert "reads 512" in long.detail


def test_batches_are_bounded_by_tokens(worker: RewardModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = worker._forward
    monkeypatch.setattr("posttrain.stages.serving.reward_models.BATCH_TOKENS", 100)
    monkeypatch.setattr(worker, "_forward", lambda rows: sizes.append(len(rows) * max(map(len, rows))) or forward(rows))
    before = worker.score(CONVERSATIONS[:3])
    assert len(sizes) > 1
    assert max(sizes) <= 100
    assert all(isinstance(value, float) for value in before)


@pytest.mark.parametrize(("change", "says"), [("labels", "2 labels"), ("language", "weights lack score.weight")])
def test_what_is_no_reward_model_is_refused(
    change: str, says: str, classifier: Path, random_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    if change == "labels":
        Qwen3ForSequenceClassification(Qwen3Config.from_pretrained(random_model, num_labels=2)).save_pretrained(
            tmp_path
        )
    else:  # transformers would give it a head of random weights, and only warn
        for file in random_model.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text()) | {"id2label": {"0": "x"}, "label2id": {"x": 0}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(random_model).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is no reward model: .*{says}"):
        RewardModelWorker(SETTINGS, 1).load(ModelSpec(path=str(tmp_path)))


def test_the_command_scores_with_a_reward_model(worker: RewardModelWorker, classifier: Path) -> None:
    line = json.dumps({"id": "1", "prompt": "2+2?", "completion": "<think>\n\n</think>\n\n4"})
    out = io.StringIO()
    host = ProcessHost(Path.cwd())
    score_lines("reward_model", io.StringIO(line), out, model=str(classifier), models=host)
    (expected,) = worker.score([turns("2+2?", "4")])
    assert json.loads(out.getvalue())["score"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="is no reward model"):
        score_lines("reward_model", io.StringIO(line), out, model="builtin:tiny", models=ProcessHost(Path.cwd()))


# ---------------------------------------------------------------- who asks


class Slow:
    """A holder that answers by key, counts, and can be held up."""

    def __init__(self) -> None:
        self.loads = self.frees = 0
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> None:
        self.loads += 1

    def answers(self, keys: Sequence[str], conversations: Sequence[Any]) -> Iterator[tuple[str, str]]:
        self.gate.wait(20)
        for key, conversation in zip(keys, conversations, strict=True):
            self.asked.append(conversation[0]["content"])
            yield key, conversation[0]["content"].upper()

    def free(self) -> None:
        self.frees += 1


def ask(model: ResidentModel[str], texts: str, timeout_s: float = 5) -> list[Any]:
    return model.ask([[{"role": "user", "content": text}] for text in texts], timeout_s)


def test_a_held_model_is_loaded_once_asked_once_each_and_freed() -> None:
    holder = Slow()
    model: ResidentModel[str] = ResidentModel("m", holder)
    assert holder.loads == 0
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(ask(model, "abca"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [["A", "B", "C", "A"]] * 3
    assert sorted(holder.asked) == ["a", "b", "c"]
    model.close()
    assert (holder.loads, holder.frees) == (1, 1)


def test_a_held_model_that_is_slow_costs_no_more_than_the_timeout_and_its_answer_is_kept() -> None:
    holder = Slow()
    model: ResidentModel[str] = ResidentModel("m", holder)
    holder.gate.clear()
    started = time.monotonic()
    (late,) = ask(model, "a", 0.2)
    assert time.monotonic() - started < 2
    assert isinstance(late, RowError)
    assert "timeout of 0.2 s" in late.detail
    holder.gate.set()
    assert ask(model, "a") == ["A"]
    assert holder.asked == ["a"]
    model.close()


def test_what_a_holder_raises_reaches_those_who_wait_and_the_next_is_asked_anew() -> None:
    holder, error = Slow(), RewardError("it died")
    model: ResidentModel[str] = ResidentModel("m", holder)
    whole = holder.answers
    holder.answers = lambda keys, conversations: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    with pytest.raises(RewardError, match="it died"):
        ask(model, "a")
    holder.answers = whole  # type: ignore[method-assign]
    assert ask(model, "a") == ["A"]
    model.close()


# ---------------------------------------------------------------- in Ray


@pytest.fixture(scope="module")
def actors(ray_session: None) -> Iterator[ModelActors]:
    cluster = Cluster(rollout=RolloutCluster(workers=2, threads=1, batch=5))
    made = ModelActors(cluster, lambda: Gpus(cluster))
    yield made
    made.close()


@pytest.fixture
def host(actors: ModelActors, tmp_path: Path) -> Iterator[RunHost]:
    made = RunHost(actors, Locations(recipe_dir=tmp_path, base=ModelSource.model_validate({"from": "builtin:tiny"})))
    yield made
    made.close()


def test_actors_score_as_one_process_does(host: RunHost, worker: RewardModelWorker, classifier: Path) -> None:
    model = ModelSource.model_validate({"from": str(classifier)})
    scores = host.reward_model(model, 60).score(CONVERSATIONS)
    assert scores == pytest.approx(worker.score(CONVERSATIONS), abs=1e-4)


def test_a_language_model_as_reward_model_is_refused_with_what_to_name(host: RunHost) -> None:
    model = ModelSource.model_validate({"from": "base"})
    with pytest.raises(InputError, match=r"is no reward model: (.|\n)*sequence-classification"):
        host.reward_model(model, 60).score(CONVERSATIONS[:1])


def test_a_judge_in_rollout_workers_answers_as_the_engine_does(
    host: RunHost, actors: ModelActors, tmp_path: Path
) -> None:
    judge = JudgeModel.model_validate({"from": "base", "max_tokens": 40})
    asked = [[{"role": "user", "content": f"Compute {i}+2."}] for i in range(3)]
    long = [{"role": "user", "content": "1+" * 2000}]
    client = host.chat(judge, 60)
    *answers, too_long = client.ask([*asked, long])
    from posttrain.stages.rollout.generation import generate_text

    alone = [
        generate_text("builtin:tiny", turns[0]["content"], no_think=True, max_tokens=40, temperature=0)
        for turns in asked
    ]
    for answer, expected in zip(answers, alone, strict=True):
        if expected["tokens"] == 40:
            assert "cut at 40 tokens" in answer.detail
        else:
            assert answer == expected["answer"]
    assert isinstance(too_long, RowError)
    assert "the model has" in too_long.detail
    pools = len(actors._all)
    host.close()
    again = RunHost(actors, Locations(recipe_dir=tmp_path))
    again.chat(JudgeModel.model_validate({"from": "builtin:tiny-mini", "max_tokens": 4}), 60).ask(asked)
    again.close()
    assert len(actors._all) == pools  # the actors were handed on


def test_a_judge_that_can_not_be_loaded_stops_the_run(actors: ModelActors, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    host = RunHost(actors, Locations(recipe_dir=tmp_path))
    with pytest.raises(RewardError, match=r"nothing.*can't be loaded"):
        host.chat(JudgeModel.model_validate({"from": "nothing"}), 60).ask([CONVERSATIONS[0][:1]])
    host.close()
