"""The vLLM engine's own part: rows out of requests, budgets id by id, new weights between two tokens, who is cancelled.

A scripted engine stands where AsyncLLM does: its next token is a function of all ids before it, so that a row asked for
in pieces must equal one asked for at once. What vLLM itself computes is tested on a GPU (tests/gpu).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.configs.schema import RolloutCluster
from posttrain.errors import InputError, RunError
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.locations import builtin_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.engines import vllm_start
from posttrain.stages.rollout.engines.error_log import last_error, written
from posttrain.stages.rollout.engines.event_loop import EventLoop
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.stages.rollout.engines.vllm_calls import derived_seed
from posttrain.stages.rollout.engines.vllm_engine import VllmEngine
from posttrain.stages.rollout.engines.vllm_start import engine_arguments, share_of_gpu
from posttrain.stages.rollout.engines.vllm_worker import WorkerExtension
from posttrain.stages.rollout.pool import RolloutWorker
from posttrain.types import Prompt, SamplingParams, Source, Turn


class Scripted:
    """AsyncLLM as far as it is used. Log-probabilities tell which weights made a token: -(version + 1)."""

    def __init__(self, chat: ChatFormat, *, step: int = 3, pace: float = 0.0) -> None:
        self.chat, self.step, self.pace = chat, step, pace
        self.weights = 0
        self.paused = asyncio.Event()
        self.asked: list[dict[str, Any]] = []
        self.open, self.said, self.reloaded = 0, list[Any](), ""
        self.break_off = False
        self.sums: list[Any] = [[9.0, 0.5, 1.0], [0.5, 0.5, 0.5]]
        """Two tensor-parallel ranks': the second weight is whole on both."""
        self.ends_at = 10**9

    def next(self, ids: list[int]) -> int:
        """Thinks after `<think>` until it closes by itself, now and then; ends its turn now and then."""
        draw = int.from_bytes(hashlib.blake2b(repr(ids).encode(), digest_size=4).digest(), "big")
        if draw % 61 == 0 or len(ids) >= self.ends_at:
            return self.chat.end_of_turn
        if draw % 37 == 1:
            assert self.chat.close_id is not None
            return self.chat.close_id
        return 20 + draw % 300

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> AsyncIterator[Any]:
        ids, sent, made = list(prompt["prompt_token_ids"]), 0, list[tuple[int, float]]()
        self.asked.append({**prompt, "params": sampling_params, "id": request_id, "version": self.weights})
        self.open += 1
        try:
            while True:
                await asyncio.sleep(self.pace)
                reason = "abort" if self.paused.is_set() or self.break_off else None
                if reason is None:
                    token = self.next(ids)
                    ids.append(token)
                    made.append((token, -1.0 - self.weights))
                    full = len(made) == sampling_params.max_tokens
                    reason = "stop" if token in sampling_params.stops else "length" if full else None
                if reason or len(made) - sent >= self.step or len(made) == 1:
                    yield self.output(made, sent, reason)
                    sent = len(made)
                if reason:
                    return
        finally:
            self.open -= 1

    @staticmethod
    def output(made: list[tuple[int, float]], sent: int, reason: str | None) -> Any:
        # As vLLM has it: a last part without tokens carries all log-probabilities again.
        told = made[-(len(made) - sent) :]
        flat = SimpleNamespace(logprobs=[p for _, p in told], start_indices=list(range(len(told))))
        part = SimpleNamespace(token_ids=[t for t, _ in made[sent:]], logprobs=flat, finish_reason=reason)
        return SimpleNamespace(outputs=[part])

    async def pause_generation(self, *, mode: str, clear_cache: bool) -> None:
        assert (mode, clear_cache) == ("abort", False)
        self.paused.set()
        await asyncio.sleep(0.002)

    async def resume_generation(self) -> None:
        self.paused.clear()

    async def collective_rpc(self, method: str, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:
        self.said.append(method)
        if method == "reload_weights":
            self.reloaded = kwargs["weights_path"]
        if method == "begin_weights":
            assert not self.open
        if method == "take_weights":
            self.weights = kwargs["update_info"]["version"]
        return self.sums if method == "weight_sums" else [None]

    async def sleep(self, level: int, mode: str) -> None:
        self.said.append(f"sleep {level}")

    async def wake_up(self, tags: list[str]) -> None:
        self.said.append(f"wake {' '.join(tags)}")

    def shutdown(self) -> None:
        self.said.append("shutdown")


def asking(params: SamplingParams, most: int, seed: int, stops: list[int]) -> Any:
    return SimpleNamespace(max_tokens=most, seed=seed, stops=stops, temperature=params.temperature)


@pytest.fixture
def make(tokenizer: Any) -> Iterator[Any]:
    made = []

    def build(**fields: Any) -> tuple[VllmEngine, Any]:
        llm = Scripted(ChatFormat(tokenizer), **fields)
        made.append(VllmEngine(llm, tokenizer, EventLoop(), request=asking, batch=16, limit=400, kind="a"))
        return made[-1], llm

    yield build
    for engine in made:
        if "shutdown" not in engine.llm.said:
            engine.close()


def prompts(count: int, mode: Any = "default") -> list[Prompt]:
    asked = [{"role": "user", "content": f"Compute {'1+' * i}2."} for i in range(count)]
    return [Prompt(id=str(i), messages=(message,), mode=mode) for i, message in enumerate(asked)]


def alone(llm: Any, prompt_ids: Any, most: int, budget: int | None) -> tuple[list[int], list[int]]:
    """Ids and sources, one token after the other: what the transformers engine's loop would give."""
    watch = ThinkingBudget.watch(llm.chat, budget, prompt_ids)
    ids, sources, forced = list[int](), list[int](), list[int]()
    while len(ids) < most and not (ids and ids[-1] in llm.chat.stops):
        if not forced:
            forced = watch.inject(ids)
        sources.append(Source.INJECTED if forced else Source.SAMPLED)
        ids.append(forced.pop(0) if forced else llm.next([*prompt_ids.tolist(), *ids]))
    return ids, sources


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("step", [1, 3, 16])
@pytest.mark.parametrize("budget", [None, 0, 1, 7, 40])
def test_a_budget_is_exact_however_the_tokens_come(make: Any, step: int, budget: int | None) -> None:
    engine, llm = make(step=step)
    opened = engine.chat.prompt_ids
    engine.chat.prompt_ids = lambda p: np.append(opened(p), engine.chat.open_id)  # a random model wouldn't open one
    params = SamplingParams(max_tokens=60, thinking_budget=budget)
    completions = [c for g in engine.generate(prompts(12), 1, params, seed=1) for c in g.completions]
    assert len(completions) == 12
    for c in completions:
        ids, sources = alone(llm, c.prompt_ids, 60, budget)
        assert c.token_ids.tolist() == ids
        assert c.sources.tolist() == sources
        assert c.logprobs.tolist() == [0.0 if s == Source.INJECTED else -1.0 for s in sources]
        assert c.finish_reason == ("stop" if ids[-1] in engine.chat.stops else "length")
    cut = [c for c in completions if Source.INJECTED in c.sources]
    assert bool(cut) == (budget is not None)
    assert len(llm.asked) <= len(completions) + len(cut)


def test_a_group_comes_as_soon_as_its_last_row_is_done(make: Any) -> None:
    engine, llm = make(pace=0.001)
    short, long = prompts(2)
    # The scripted engine ends every turn at this length: the shorter prompt may say more.
    llm.ends_at = len(engine.chat.prompt_ids(long)) + 2
    seen = []
    for group in engine.generate([short, long], 3, SamplingParams(max_tokens=300), seed=1):
        assert len(group.completions) == 3
        assert [c.index for c in group.completions] == [0, 1, 2]
        seen.append(group.prompt.id)
        llm.ends_at = 0
    assert seen == ["1", "0"]


def test_members_of_a_group_share_a_prefix_and_draw_their_own(make: Any) -> None:
    engine, llm = make()
    list(engine.generate(prompts(2), 4, SamplingParams(max_tokens=4), seed=5))
    first = [a for a in llm.asked if a["prompt_token_ids"] == llm.asked[0]["prompt_token_ids"]]
    assert len(first) == 4
    assert len({a["cache_salt"] for a in first}) == 1
    assert len({a["params"].seed for a in llm.asked}) == 8
    assert {a["params"].seed for a in first} == {derived_seed(5, "0", i, 0) for i in range(4)}


def test_what_was_begun_goes_on_and_what_was_done_is_not_asked_again(make: Any) -> None:
    engine, llm = make()
    params = SamplingParams(max_tokens=50, thinking_budget=6)
    opened = engine.chat.prompt_ids
    engine.chat.prompt_ids = lambda p: np.append(opened(p), engine.chat.open_id)
    whole = next(engine.generate(prompts(1), 3, params, seed=2))
    for cut in (1, 5, 6, 8, 20):
        partial = tuple(
            replace(c, token_ids=c.token_ids[:cut], sources=c.sources[:cut], logprobs=c.logprobs[:cut],
                    versions=c.versions[:cut] + 3, finish_reason="abort")
            if c.index and len(c.token_ids) > cut else c
            for c in whole.completions
        )  # fmt: skip
        llm.asked.clear()
        again = next(engine.generate([replace(whole.prompt, begun=partial)], 3, params, seed=2))
        for got, expected in zip(again.completions, whole.completions, strict=True):
            assert got.token_ids.tolist() == expected.token_ids.tolist()
            assert got.sources.tolist() == expected.sources.tolist()
        unfinished = [p for p in partial if p.finish_reason == "abort"]
        assert len(llm.asked) <= 2 * len(unfinished)
        for got in (again.completions[p.index] for p in unfinished):
            assert got.versions[:cut].tolist() == [3] * cut


def test_a_later_turn_continues_the_ids_as_they_are_within_its_room(make: Any) -> None:
    engine, llm = make()
    ids = np.concatenate([engine.chat.prompt_ids(prompts(1)[0]), [30, 31, engine.chat.end_of_turn]])
    told = len(engine.chat.turn_ids(Turn(ids=ids, results=("42",), room=0), "default")) - len(ids)
    later = [
        replace(prompts(1)[0], id=f"@{room}", continues=Turn(ids=ids, results=("42",), room=told + room))
        for room in (5, 0, -3)
    ]
    found = {g.prompt.id: g.completions[0] for g in engine.generate(later, 1, SamplingParams(max_tokens=12), seed=0)}
    assert {name: (len(c.token_ids), c.finish_reason) for name, c in found.items()} == {
        "@5": (5, "length"), "@0": (0, "length"), "@-3": (0, "length"),
    }  # fmt: skip
    assert [a["prompt_token_ids"][: len(ids)] for a in llm.asked] == [ids.tolist()]


def test_a_prompt_that_does_not_fit_is_refused(make: Any) -> None:
    engine, llm = make()
    with pytest.raises(InputError, match="max_context"):
        next(engine.generate(prompts(1), 1, SamplingParams(max_tokens=400), seed=0))
    assert not llm.asked


# ---------------------------------------------------------------- new weights


def update(engine: VllmEngine, version: int, expected: float | None = None) -> None:
    engine.begin_update()
    engine.receive({"version": version})
    engine.end_update(version, expected)


@pytest.mark.parametrize("step", [1, 16])
def test_new_weights_come_between_two_tokens_and_every_token_is_labelled(make: Any, step: int) -> None:
    engine, llm = make(step=step, pace=0.0005)
    llm.next = lambda ids: 20 + len(ids)  # nobody ends early
    found = []
    params = SamplingParams(max_tokens=120)
    thread = threading.Thread(target=lambda: found.extend(engine.generate(prompts(4), 3, params, seed=1)))
    thread.start()
    for version in (1, 2, 3):
        time.sleep(0.03)
        update(engine, version)
    thread.join(timeout=60)
    rows = [c for g in found for c in g.completions]
    assert [len(c.token_ids) for c in rows] == [120] * 12
    for c in rows:
        assert c.token_ids.tolist() == [20 + len(c.prompt_ids) + i for i in range(120)]
        assert c.logprobs.tolist() == [-1.0 - v for v in c.versions]
    assert {int(v) for c in rows for v in c.versions} == {0, 1, 2, 3}
    # Who was under way goes on over its own cached keys and values.
    assert {a["cache_salt"] for a in llm.asked} == {"0.0"}
    list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), seed=1))
    assert llm.asked[-1]["cache_salt"] == "0.3"


def test_a_row_that_waited_for_its_turn_starts_on_the_prefixes_of_its_own_weights(make: Any) -> None:
    """More rows than slots: those that begin after an update share nothing with those that began before it."""
    engine, llm = make(step=1, pace=0.001)
    engine._slots = asyncio.Semaphore(2)
    llm.next = lambda ids: 20
    found: list[Any] = []
    params = SamplingParams(max_tokens=30)
    thread = threading.Thread(target=lambda: found.extend(engine.generate(prompts(1), 4, params, seed=1)))
    thread.start()
    while not llm.open:
        time.sleep(0.001)
    update(engine, 1)
    thread.join(timeout=30)
    length = len(found[0].completions[0].prompt_ids)
    begun = [(a["cache_salt"], a["version"]) for a in llm.asked if len(a["prompt_token_ids"]) == length]
    assert {*begun} == {("0.0", 0), ("0.1", 1)}


def test_a_sum_that_differs_stops_the_new_version(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    engine, llm = make()
    update(engine, 1, expected=11.5)  # 9.5 + 1.5 split over two ranks, and 0.5 that both have
    assert engine.version == 1
    with pytest.raises(RunError, match="sum to"):
        update(engine, 2, expected=11.6)
    llm.sums[1][1] = float("nan")
    with pytest.raises(RunError, match="sum to nan"):
        update(engine, 2, expected=11.5)
    assert engine.version == 1
    llm.sums = [None, None]
    update(engine, 2, expected=11.5)
    assert engine.version == 2
    assert "can't be compared by their sums" in caplog.text


def test_partials_hold_what_was_begun_as_far_as_it_is(make: Any) -> None:
    engine, llm = make(step=1, pace=0.001)
    llm.next = lambda ids: 20
    stream = engine.generate(prompts(2), 2, SamplingParams(max_tokens=60), seed=3)
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    while not (found := engine.partials()) or not all(len(c.token_ids) for g in found for c in g.completions):
        time.sleep(0.005)
    assert {g.prompt.id for g in found} == {"0", "1"}
    assert {c.finish_reason for g in found for c in g.completions} == {"abort"}
    thread.join(timeout=30)
    assert engine.partials() == []


# ---------------------------------------------------------------- the end of requests


def test_an_interrupt_cancels_all_requests(make: Any) -> None:
    engine, llm = make(pace=0.001)
    llm.next = lambda ids: 20
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(engine.generate(prompts(8), 2, SamplingParams(max_tokens=300), 1))
    )
    thread.start()
    while not llm.open:
        time.sleep(0.001)
    engine.interrupt()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert (llm.open, found) == (0, [])
    assert list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=3), 1)) == []


def test_an_interrupt_while_prompts_are_encoded_lets_none_begin(make: Any) -> None:
    engine, llm = make(pace=0.001)
    encode = engine.chat.prompt_ids

    def slow(prompt: Prompt) -> Any:
        engine.interrupt()
        return encode(prompt)

    engine.chat.prompt_ids = slow
    assert list(engine.generate(prompts(3), 2, SamplingParams(max_tokens=50), 1)) == []
    assert llm.asked == []


def test_streams_that_wake_it_together_wake_it_once(make: Any) -> None:
    engine, llm = make(pace=0.001)
    engine.rest()
    update(engine, 1)
    wake = llm.wake_up

    async def slow(tags: list[str]) -> None:
        await asyncio.sleep(0.02)
        await wake(tags)

    llm.wake_up = slow
    threads = [
        threading.Thread(target=lambda: list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), 1)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert [said for said in llm.said if said.startswith("wake")] == ["wake weights", "wake kv_cache"]


def test_it_does_not_sleep_under_rows_that_are_decoded(make: Any) -> None:
    engine, llm = make(pace=0.001)
    llm.next = lambda ids: 20
    thread = threading.Thread(target=lambda: list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=80), 1)))
    thread.start()
    while not llm.open:
        time.sleep(0.001)
    engine.rest()
    thread.join(timeout=20)
    assert "sleep 2" not in llm.said


def test_whoever_stops_listening_ends_the_requests(make: Any) -> None:
    engine, llm = make(pace=0.001)
    stream = engine.generate(prompts(8), 2, SamplingParams(max_tokens=200), 1)
    llm.ends_at = len(engine.chat.prompt_ids(prompts(1)[0])) + 3
    next(stream)
    assert llm.open
    stream.close()
    deadline = time.monotonic() + 10
    while llm.open and time.monotonic() < deadline:
        time.sleep(0.005)
    assert llm.open == 0


def test_a_request_that_vllm_gives_up_is_an_error(make: Any) -> None:
    engine, llm = make()
    llm.break_off = True
    with pytest.raises(RunError, match="by itself: abort"):
        list(engine.generate(prompts(2), 2, SamplingParams(max_tokens=9), seed=1))
    assert llm.open == 0


def test_an_error_of_vllms_is_told_as_such(make: Any) -> None:
    engine, llm = make()

    def broken(ids: list[int]) -> int:
        raise ValueError("EngineCore is dead")

    llm.next = broken
    with pytest.raises(RunError, match="ValueError: EngineCore is dead"):
        list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=9), seed=1))


# ---------------------------------------------------------------- memory, and the start


def test_it_sleeps_until_new_weights_come_and_wakes_its_cache_last(make: Any) -> None:
    engine, llm = make()
    engine.rest()
    with pytest.raises(RunError, match="dropped its weights"):
        list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), seed=1))
    update(engine, 1)
    assert len(next(engine.generate(prompts(1), 2, SamplingParams(max_tokens=2), seed=1)).completions) == 2
    assert llm.said == [
        "sleep 2", "wake weights", "begin_weights", "take_weights", "end_weights", "wake kv_cache",
    ]  # fmt: skip


def test_what_a_broadcast_left_behind_is_given_back(make: Any) -> None:
    """vLLM receives on other streams each time, and what was freed on one isn't taken on another."""
    engine, llm = make()
    engine.connect({})
    update(engine, 1)
    assert llm.said[-2:] == ["end_weights", "drop_cached"]


def test_a_parked_engine_takes_up_another_model_on_prefixes_of_its_own(make: Any, tokenizer: Any) -> None:
    engine, llm = make()
    list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), seed=1))
    assert engine.park(sleep=True)
    with pytest.raises(RunError, match="load a model first"):
        list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), seed=1))
    engine.replace("folder", tokenizer)
    assert len(list(engine.generate(prompts(1), 1, SamplingParams(max_tokens=2), seed=1))) == 1
    assert llm.said == ["sleep 2", "wake weights", "reload_weights", "wake kv_cache"]
    assert llm.reloaded == "folder"
    assert [asked["cache_salt"] for asked in llm.asked] == ["0.0", "1.0"]


def test_parking_ends_what_runs_before_it_sleeps(make: Any) -> None:
    engine, llm = make(pace=0.01)
    stream = engine.generate(prompts(8), 2, SamplingParams(max_tokens=300), seed=1)
    reading = threading.Thread(target=lambda: list(stream))
    reading.start()
    while not llm.open:
        time.sleep(0.01)
    assert engine.park(sleep=True)
    assert (llm.open, llm.said) == (0, ["sleep 2"])
    reading.join(10)
    assert not reading.is_alive()


def test_parked_after_an_update_the_new_weights_sleep_too(make: Any) -> None:
    """As at the end of a stage of RL: it rested while the learner trained, and got weights that nobody used."""
    engine, llm = make()
    engine.rest()
    update(engine, 1)
    llm.said.clear()
    assert engine.park(sleep=True)
    assert llm.said == ["wake kv_cache", "sleep 2"]


@pytest.mark.parametrize("sleep", [True, False])
def test_an_engine_left_within_an_update_is_not_kept(make: Any, sleep: bool) -> None:
    engine, _ = make()
    engine.begin_update()
    assert not engine.park(sleep=sleep)


def test_an_engine_of_a_group_that_ends_with_its_learner_is_not_kept(make: Any) -> None:
    engine, _ = make()
    engine.connect({})
    assert not engine.park(sleep=False)


def test_what_was_asked_of_one_model_is_not_decoded_by_the_next(make: Any, tokenizer: Any) -> None:
    """Its prompts were still being encoded when the engine was parked."""
    engine, llm = make()
    encode = engine.chat.prompt_ids

    def slow(prompt: Prompt) -> Any:
        if not engine._parked:
            assert engine.park(sleep=False)
            engine.replace("folder", tokenizer)
        return encode(prompt)

    engine.chat.prompt_ids = slow
    assert list(engine.generate(prompts(1), 2, SamplingParams(max_tokens=2), seed=1)) == []
    assert llm.asked == []


def test_an_engine_that_cannot_sleep_is_not_kept_and_says_why(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    engine, llm = make()

    async def dead(**_: Any) -> None:
        raise OSError("the engine core is gone")

    llm.sleep = dead
    assert not engine.park(sleep=True)
    assert "the engine core is gone" in caplog.text


@pytest.mark.parametrize(
    ("fields", "asleep"), [({"sleep": True, "gpus": 0.5}, True), ({"gpus": 0.5}, True), ({"gpus": 1}, False)]
)
def test_between_stages_a_worker_keeps_its_engine_asleep_if_it_shares_the_gpu(
    make: Any, fields: dict[str, Any], asleep: bool
) -> None:
    settings = RolloutCluster(engine="vllm", **fields)
    worker = RolloutWorker(settings, 1)
    worker.engine, llm = make()
    worker.free()
    assert worker.engine is not None
    assert "shutdown" not in llm.said
    assert ("sleep 2" in llm.said) == asleep == engine_arguments(settings, "m", None, "", 0)["enable_sleep_mode"]
    worker.close()
    assert llm.said.count("shutdown") == 1


def test_a_worker_ends_the_engine_it_kept_if_the_next_model_cannot_be_loaded(make: Any, tmp_path: Path) -> None:
    worker = RolloutWorker(RolloutCluster(engine="vllm", gpus=1), 1)
    worker.engine, llm = make()
    with pytest.raises((OSError, ValueError)):
        worker.load(ModelSpec(path=str(tmp_path)))
    assert "shutdown" in llm.said
    assert worker.engine is None


@pytest.mark.parametrize(
    ("hidden", "backend", "breaks", "same"),
    [(64, "ipc", False, True), (32, "ipc", False, False), (64, "nccl", False, False), (64, "ipc", True, False)],
)
def test_only_a_model_of_the_same_configuration_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: int, backend: str, breaks: bool, same: bool
) -> None:
    """Twice the tiny model at random, the second as said."""

    class Engine:
        def __init__(self, kind: str) -> None:
            self.kind, self.said = kind, list[str]()

        def replace(self, folder: str, tokenizer: Any) -> None:
            assert (Path(folder) / "config.json").is_file()
            if breaks:
                raise OSError("the engine core is gone")
            self.said.append("replaced")

        def close(self) -> None:
            self.said.append("closed")

    monkeypatch.setattr(vllm_start, "_start", lambda settings, arguments, tokenizer, kind: Engine(kind))
    settings = RolloutCluster(engine="vllm", gpus=0.5, sleep=True)
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64}
    path = str(builtin_path("builtin:tiny"))
    first: Any = vllm_start.engine_for(settings, ModelSpec(path=path, scratch=shape), "", 1)
    spec = ModelSpec(path=path, scratch={**shape, "hidden_size": hidden})
    second = vllm_start.engine_for(settings, spec, backend, 2, first)
    assert first.said == (["replaced"] if same else ["closed"])
    assert (second is first) == same


FREED = "AssertionError: Error in memory profiling. Initial free memory 27 GiB"


@pytest.mark.parametrize(
    ("failures", "says"),
    [
        ([], None),
        ([FREED] * 2, None),
        ([FREED] * 3, "another program gives memory"),
        (["ValueError: No available memory for the cache blocks."], "knows this model"),
        (["", FREED], "knows this model"),  # the second says nothing: what the first said isn't its reason
    ],
)
def test_vllm_starts_again_where_memory_came_free_while_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failures: list[str], says: str | None
) -> None:
    """Its processes write why they end to their log; what is raised says that there was something."""
    left, stderr = list(failures), tmp_path / "stderr"
    stderr.write_text("AssertionError: Error in memory profiling, of an earlier stage\n")

    async def launch(arguments: dict[str, Any]) -> str:
        if not left:
            return "up"
        with stderr.open("a") as log:
            print(left.pop(), file=log)
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(vllm_start, "_launch", launch)
    monkeypatch.setattr(vllm_start, "last_error", partial(last_error, str(stderr)))
    monkeypatch.setattr(vllm_start, "written", partial(written, str(stderr)))
    settings = RolloutCluster(engine="vllm", gpus=0.5)
    if says is None:
        llm, loop = vllm_start._started(settings, {})
        loop.close()
        assert llm == "up"
    else:
        with pytest.raises(RunError) as error:
            vllm_start._started(settings, {})
        assert says in str(error.value.fix)
    assert not left


def test_a_rank_sums_each_weight_unless_its_heads_are_on_others_too() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.LayerNorm(2, bias=False))
    first: Any = model[0]
    worker = WorkerExtension()
    worker.get_model = lambda: model
    assert worker.weight_sums() == pytest.approx([first.weight.abs().sum().item(), 2.0])
    first.num_kv_head_replicas = 2
    assert worker.weight_sums() is None


class UnquantizedLinearMethod:
    """Named as vLLM's, which is told apart by that."""


class Fp8LinearMethod:
    pass


class Attention(torch.nn.Module):
    def process_weights_after_loading(self, dtype: torch.dtype) -> None:
        raise AssertionError


class MLAAttention(Attention):
    pass


class Updated(WorkerExtension):
    """A worker of vLLM's: what of it was called."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.said: list[Any] = []
        self.get_model = lambda: torch.nn.Sequential(*modules)
        self.weight_transfer_engine = SimpleNamespace(update_weights=lambda info: self.said.append(("loaded", info)))
        self.start_weight_update = lambda: self.said.append("unfold")
        self.update_weights = lambda info: self.said.append(("by layers", info))
        self.finish_weight_update = lambda: self.said.append("fold")

    def update(self) -> list[Any]:
        self.begin_weights()
        self.take_weights({"names": ["a"]})
        self.end_weights()
        return self.said


def method(of: object) -> torch.nn.Module:
    layer: Any = torch.nn.Linear(2, 2)
    layer.quant_method = of
    return layer


def test_weights_of_a_plain_model_are_written_over_in_place() -> None:
    worker = Updated(method(UnquantizedLinearMethod()), Attention(), torch.nn.LayerNorm(2))
    assert worker.update() == [("loaded", {"names": ["a"]})]


@pytest.mark.parametrize("folded", [method(Fp8LinearMethod()), MLAAttention()])
def test_a_model_whose_weights_are_processed_after_loading_takes_them_by_layers(folded: torch.nn.Module) -> None:
    worker = Updated(method(UnquantizedLinearMethod()), folded)
    assert worker.update() == ["unfold", ("by layers", {"names": ["a"]}), "fold"]


def test_settings_become_vllms_arguments() -> None:
    half = RolloutCluster(engine="vllm", gpus=0.5, sleep=True, max_context=512, float32_head=True, batch=64)
    found = engine_arguments(half, "folder", None, "ipc", 3)
    assert found["tensor_parallel_size"] == 1
    assert found["gpu_memory_utilization"] == pytest.approx(0.45)
    assert (found["enable_sleep_mode"], found["max_model_len"], found["max_num_seqs"]) == (True, 512, 64)
    assert found["weight_transfer_config"] == {"backend": "ipc"}
    assert found["hf_overrides"] == {"head_dtype": "float32"}
    two = engine_arguments(RolloutCluster(engine="vllm", gpus=2, memory=0.6, eager=True), "folder", None, "", 3)
    assert (two["tensor_parallel_size"], two["distributed_executor_backend"]) == (2, "mp")
    assert two["gpu_memory_utilization"] == share_of_gpu(RolloutCluster(engine="vllm", gpus=2, memory=0.6)) == 0.6
    assert two["enforce_eager"]
    assert not {"weight_transfer_config", "hf_overrides", "max_model_len"} & set(two)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine": "vllm"}, "gpus: 1"),
        ({"engine": "vllm", "gpus": 1.5}, "whole ones"),
        ({"sleep": True, "gpus": 1}, "sleep: only with engine: vllm"),
    ],
)
def test_what_does_not_fit_the_engine_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RolloutCluster(**fields)


# ---------------------------------------------------------------- what is told when it fails


def test_the_cause_is_found_in_the_log_and_not_what_follows_from_it(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    log.write_text(
        "(EngineCore pid=7) ERROR 11-26 ValueError: No available memory for the cache blocks.\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert last_error(str(log)) == "ValueError: No available memory for the cache blocks."
    log.write_text("INFO nothing wrong\n")
    assert last_error(str(log)) == ""
    assert last_error(str(tmp_path)) == ""


def test_nobody_waits_for_an_engine_without_a_bound() -> None:
    loop, gone = EventLoop(), threading.Event()

    async def stuck() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()

    with pytest.raises(RunError, match="didn't answer in 0 s"):
        loop.call(stuck(), 0.05)
    assert gone.wait(5)
    loop.close()


def test_a_timeout_of_the_engines_own_is_told_as_its_own() -> None:
    loop = EventLoop()

    async def late() -> None:
        raise TimeoutError("RPC call to sample timed out")

    with pytest.raises(TimeoutError, match="RPC call"):
        loop.call(late(), 60)
    loop.close()


def test_a_loop_that_is_blocked_can_be_left() -> None:
    loop, let_go = EventLoop(), threading.Event()

    async def blocks() -> None:
        let_go.wait(20)

    loop.start(blocks())
    began = time.monotonic()
    loop.close(patience=0.2)
    assert time.monotonic() - began < 5
    let_go.set()
