"""The engine: what it samples is what the learner scores; budgets act on ids; streams belong to samples."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.configs.schema import RolloutCluster
from posttrain.errors import InputError
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.locations import builtin_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.engines.sampling import draw, uniforms
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.stages.rollout.engines.transformers_engine import TransformersEngine
from posttrain.stages.rollout.engines.weight_gate import WeightGate
from posttrain.stages.rollout.pool import RolloutWorker
from posttrain.types import Prompt, SamplingParams, Source, Turn


@pytest.fixture(scope="module")
def engine(random_model: Path, tokenizer: Any) -> TransformersEngine:
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32, attn_implementation="sdpa")
    return TransformersEngine(model.eval(), tokenizer, batch=16)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(i), messages=({"role": "user", "content": f"Compute {'1+' * i}2."},)) for i in range(count)]


def test_logprobs_equal_a_plain_forward_pass(engine: TransformersEngine) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.8)
    for group in engine.generate(prompts(6), 3, params, seed=1):
        for c in group.completions:
            ids = torch.from_numpy(np.concatenate([c.prompt_ids, c.token_ids]))[None]
            with torch.no_grad():
                logits = engine.model(input_ids=ids).logits[0, len(c.prompt_ids) - 1 : -1] / 0.8
            expected = logits.log_softmax(-1).gather(-1, torch.from_numpy(c.token_ids)[:, None])[:, 0].numpy()
            np.testing.assert_allclose(c.logprobs, expected, atol=2e-5)


def test_greedy_equals_transformers_generate(engine: TransformersEngine) -> None:
    params = SamplingParams(max_tokens=12, temperature=0)
    for group in engine.generate(prompts(5), 1, params, seed=0):
        c = group.completions[0]
        stops = list(engine.chat.stops)
        expected = engine.model.generate(
            torch.from_numpy(c.prompt_ids)[None],
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stops,
        )[0, len(c.prompt_ids) :]
        assert c.token_ids.tolist() == expected.tolist()[: len(c.token_ids)]


def test_a_sample_does_not_depend_on_who_shares_its_batch(engine: TransformersEngine) -> None:
    params = SamplingParams(max_tokens=10)
    alone = next(engine.generate(prompts(3)[2:], 2, params, seed=5))
    together = {g.prompt.id: g for g in engine.generate(prompts(8), 2, params, seed=5)}["2"]
    for a, b in zip(alone.completions, together.completions, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()


def test_members_of_a_group_differ(engine: TransformersEngine) -> None:
    group = next(engine.generate(prompts(1), 8, SamplingParams(max_tokens=10), seed=0))
    assert len({tuple(c.token_ids.tolist()) for c in group.completions}) == 8


def test_a_prompt_that_does_not_fit_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(InputError, match="max_tokens"):
        next(engine.generate(prompts(1), 1, SamplingParams(max_tokens=10_000), seed=0))


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(max_tokens=1, top_k=2), {0, 1}),
        (SamplingParams(max_tokens=1, top_p=0.75), {0, 1}),
        (SamplingParams(max_tokens=1, top_p=0.1), {0}),
        (SamplingParams(max_tokens=1, temperature=0), {0}),
        (SamplingParams(max_tokens=1), {0, 1, 2, 3}),
    ],
)
def test_cuts_leave_the_right_tokens(params: SamplingParams, allowed: set[int]) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    tokens, logprobs = draw(logits, torch.linspace(0, 0.99999, 4000), params)
    assert set(tokens.tolist()) == allowed
    # The log-probability is that of the uncut distribution.
    assert logprobs[tokens == 0].exp().mean().item() == pytest.approx(0.5, abs=1e-6)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20_000, 1)
    random = torch.from_numpy(uniforms(0, "p", 0, 20_000))
    tokens, _ = draw(logits, random, SamplingParams(max_tokens=1))
    shares = np.bincount(tokens.numpy(), minlength=4) / 20_000
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)


# ---------------------------------------------------------------- new weights, and what was begun


def scaled(engine: TransformersEngine, factor: float) -> dict[str, Any]:
    return {n: (p.detach() * factor).numpy() for n, p in engine.model.named_parameters()}


def test_new_weights_come_between_two_tokens_and_every_token_is_labelled(random_model: Path, tokenizer: Any) -> None:
    """The log-probability of each token is that of the version on its label, over keys of the versions before."""
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32, attn_implementation="sdpa")
    engine = TransformersEngine(model.eval(), tokenizer, batch=16)
    new, forward, calls = scaled(engine, 1.5), engine._forward, []

    def counted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # from a thread of its own, as an actor's call comes
            thread = threading.Thread(target=engine.update_weights, args=(new, 7))
            thread.start()
            threads.append(thread)
            time.sleep(0.2)  # it waits: a token is being made
        return forward(*args)

    threads: list[threading.Thread] = []
    engine._forward = counted  # type: ignore[method-assign]
    groups = list(engine.generate(prompts(3), 2, SamplingParams(max_tokens=16), seed=1))
    threads[0].join(timeout=10)
    for c in (c for g in groups for c in g.completions):
        assert c.versions[:6].tolist() == [0] * min(6, len(c.versions))
        assert set(c.versions[6:].tolist()) <= {7}
    assert any(7 in c.versions for g in groups for c in g.completions)


@pytest.mark.parametrize("budget", [None, 4])
def test_an_interrupted_generation_goes_on_as_if_it_never_was(engine: TransformersEngine, budget: int | None) -> None:
    """Stopped at any token, in the middle of an injection too, and taken up: the same ids and log-probabilities."""
    params = SamplingParams(max_tokens=24, thinking_budget=budget)
    asked = [
        Prompt(id=str(i), messages=({"role": "user", "content": "Hi " * i + "think"},), mode="think") for i in range(3)
    ]
    whole = {g.prompt.id: g for g in engine.generate(asked, 2, params, seed=2)}
    cuts = []
    for stop in (1, 5, 9, 16):
        forward, calls, kept = engine._forward, [], []

        def counted(*args: Any, forward: Any = forward, calls: Any = calls, kept: Any = kept, stop: int = stop) -> Any:
            calls.append(1)
            if len(calls) == stop:
                kept.extend(partials(engine))
            return forward(*args)

        engine._forward = counted  # type: ignore[method-assign]
        list(engine.generate(asked, 2, params, seed=2))
        engine._forward = forward  # type: ignore[method-assign]
        begun = [replace(g.prompt, begun=g.completions) for g in kept]
        cuts.append(sum(c.finish_reason == "abort" for g in kept for c in g.completions))
        for group in engine.generate(begun, 2, params, seed=2):
            for got, expected in zip(group.completions, whole[group.prompt.id].completions, strict=True):
                assert got.token_ids.tolist() == expected.token_ids.tolist()
                assert got.sources.tolist() == expected.sources.tolist()
                np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-5)
                assert got.finish_reason == expected.finish_reason
    assert max(cuts) > 1


def partials(engine: TransformersEngine) -> list[Any]:
    """`engine.partials()` from inside a token, where it would wait for its own end."""
    return [
        engine._group(prompt, rows[2 * g : 2 * g + 2])
        for asked, rows in engine._running
        for g, prompt in enumerate(asked)
    ]


def test_partials_wait_for_the_token_and_hold_unfinished_rows(engine: TransformersEngine) -> None:
    stream = engine.generate(prompts(16), 1, SamplingParams(max_tokens=60), seed=3)
    first = next(stream)
    found = {g.prompt.id: g for g in engine.partials()}
    assert set(found) == {p.id for p in prompts(16)}
    assert all(c.finish_reason != "abort" for c in found[first.prompt.id].completions)
    assert any(c.finish_reason == "abort" for g in found.values() for c in g.completions)
    list(stream)
    assert engine.partials() == []


def test_an_interrupt_ends_a_generation_at_its_next_token(random_model: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32, attn_implementation="sdpa")
    engine = TransformersEngine(model.eval(), tokenizer, batch=4)
    stream = engine.generate(prompts(8), 2, SamplingParams(max_tokens=60), seed=3)
    next(stream)
    engine.interrupt()
    assert len(list(stream)) < 7


def test_a_writer_at_the_gate_goes_before_the_next_token() -> None:
    gate, order = WeightGate(), []
    inside, leave = threading.Event(), threading.Event()

    def token() -> None:
        with gate.token():
            inside.set()
            leave.wait(10)
            order.append("token")

    def alone() -> None:
        with gate.alone():
            order.append("alone")

    def later() -> None:
        with gate.token():
            order.append("next token")

    threads = [threading.Thread(target=f) for f in (token, alone, later)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    while not gate._wanted:
        time.sleep(0.001)
    threads[2].start()
    time.sleep(0.05)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(timeout=10)
    assert order == ["token", "alone", "next token"]


# ---------------------------------------------------------------- budgets


def watch(chat: ChatFormat, budget: int | None, prompt: list[int] | None = None) -> ThinkingBudget:
    return ThinkingBudget.watch(chat, budget, np.array(prompt or [0]))


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer)


def test_the_budget_counts_thinking_tokens_and_injects_once(chat: ChatFormat) -> None:
    budget = watch(chat, 3)
    thought = [chat.open_id, 50, 51]
    assert budget.inject(thought) == []
    assert budget.inject([*thought, 52]) == list(chat.early_stop)
    assert budget.inject([*thought, 52, 53]) == []


def test_whoever_closed_in_time_is_left_alone(chat: ChatFormat) -> None:
    budget = watch(chat, 3)
    assert budget.inject([chat.open_id, 50, chat.close_id]) == []
    assert budget.inject([chat.open_id, 50, chat.close_id, 51, 52, 53, 54]) == []


def test_whoever_never_thinks_is_left_alone(chat: ChatFormat) -> None:
    assert watch(chat, 0).inject([50, 51, 52]) == []


def test_a_block_closed_in_the_prompt_is_left_alone(chat: ChatFormat) -> None:
    prompt = chat.prompt_ids(Prompt(id="x", messages=({"role": "user", "content": "Hi"},), mode="closed")).tolist()
    assert watch(chat, 0, prompt).inject([50, 51]) == []


def test_budget_zero_gives_the_empty_block_that_no_think_training_has(chat: ChatFormat, tokenizer: Any) -> None:
    forced = watch(chat, 0).inject([chat.open_id])
    text = tokenizer.decode([chat.open_id, *forced])
    assert text == "<think>\n\n</think>\n\n"


def test_a_cut_inside_a_character_keeps_the_ids(engine: TransformersEngine, chat: ChatFormat, tokenizer: Any) -> None:
    pieces = tokenizer("é漢🙂", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 3  # several tokens a character
    budget = watch(chat, 1)
    assert budget.inject([chat.open_id, pieces[0]]) == list(chat.early_stop)


def test_injected_tokens_are_marked_and_carry_no_logprob(engine: TransformersEngine) -> None:
    # A prompt that ends in an open think block makes a random model think.
    chat = engine.chat
    opened = Prompt(id="o", messages=({"role": "user", "content": "Hi"},))
    original = chat.prompt_ids
    try:
        chat.prompt_ids = lambda p: np.append(original(p), chat.open_id)  # type: ignore[method-assign]
        completion = next(
            engine.generate([opened], 1, SamplingParams(max_tokens=60, thinking_budget=4), seed=3)
        ).completions[0]
    finally:
        chat.prompt_ids = original  # type: ignore[method-assign]
    injected = np.flatnonzero(completion.sources == Source.INJECTED)
    assert completion.token_ids[injected].tolist() == list(chat.early_stop)
    assert injected[0] == 4
    assert not completion.logprobs[injected].any()


def test_a_pruned_model_samples_with_the_layers_that_it_has() -> None:
    worker = RolloutWorker(RolloutCluster(), 1)
    worker.load(ModelSpec(path=str(builtin_path("builtin:tiny")), layers=(0, 2)))
    assert len(worker.engine.model.model.layers) == 2
    (group,) = worker.generate(
        [Prompt(id="p", messages=({"role": "user", "content": "1+1?"},))], 2, SamplingParams(max_tokens=4), 0
    )
    assert all(len(c.token_ids) for c in group.completions)


def test_a_later_turn_continues_the_ids_as_they_are_within_its_room(engine: TransformersEngine) -> None:
    (first,) = engine.generate(prompts(1), 1, SamplingParams(max_tokens=8, temperature=0), seed=0)
    said = first.completions[0]
    ids = np.concatenate([said.prompt_ids, said.token_ids, [engine.chat.end_of_turn]])
    told = len(engine.chat.turn_ids(Turn(ids=ids, results=("42",), room=0), "default")) - len(ids)
    later = [
        replace(prompts(1)[0], id=f"0#0@{room}", continues=Turn(ids=ids, results=("42",), room=told + room))
        for room in (5, 0, -3, 900)
    ]
    groups = {g.prompt.id: g.completions[0] for g in engine.generate(later, 1, SamplingParams(max_tokens=12), seed=0)}
    for completion in groups.values():
        np.testing.assert_array_equal(completion.prompt_ids[: len(ids)], ids)
        assert "42" in engine.chat.decode(completion.prompt_ids[len(ids) :])
    assert {name: len(c.token_ids) for name, c in groups.items() if c.finish_reason == "length"} == {
        "0#0@5": 5, "0#0@0": 0, "0#0@-3": 0, "0#0@900": 12,
    }  # fmt: skip


def test_the_logprobs_of_a_later_turn_equal_a_plain_forward_pass(engine: TransformersEngine) -> None:
    ids = np.concatenate([engine.chat.prompt_ids(prompts(1)[0]), [30, 31, engine.chat.end_of_turn]])
    later = replace(prompts(1)[0], continues=Turn(ids=ids, results=("42", "7"), room=200))
    (group,) = engine.generate([later], 2, SamplingParams(max_tokens=10), seed=3)
    for c in group.completions:
        with torch.no_grad():
            whole = torch.from_numpy(np.concatenate([c.prompt_ids, c.token_ids]))[None]
            logits = engine.model(input_ids=whole).logits[0, len(c.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.from_numpy(c.token_ids)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(c.logprobs, expected, atol=2e-5)
