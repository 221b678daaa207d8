"""The `vllm` engine: vLLM's AsyncLLM behind the interface of the transformers engine.

Every completion is a request of its own; vLLM batches them, and a group shares its prompt's cached prefix. A row asks
for the rest of itself, and asks again where it was cut:

    budget spent      what was sampled past the cut is discarded, the early-stop text appended, the rest asked for
    new weights       vLLM hands over what it has, takes the weights, and goes on over the cached prefix (PipelineRL)

so that ids, log-probabilities and versions are exact to the token. The prefix cache is salted with the model and the
version that began a row: nobody starts on keys and values of older weights, and who was under way keeps those it has.

Between two stages an engine may be parked; it then takes up another model of its `kind` without starting anew.

Not covered: the same ids from the same seed over different batches, which vLLM doesn't promise.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import queue
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import InputError, RunError
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.rollout.engines.decoding import DecodedSequence, as_group, encode, room, unspoken
from posttrain.stages.rollout.engines.event_loop import EventLoop
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.stages.rollout.engines.vllm_calls import (
    AsyncEngine,
    Request,
    derived_seed,
    plain_error,
    sampled_logprobs,
)
from posttrain.types import Group, Prompt, SamplingParams, Source

PATIENCE = 600.0
"""Seconds that vLLM may take for anything but generating: far longer than a transfer of weights."""
GROUP_PATIENCE = 1800.0
"""Seconds within which some group must be done."""
AHEAD = 2
"""Requests that wait in vLLM, for each that it decodes: its queue never runs dry, and is short to abort."""
PARK_PATIENCE = 60.0
"""Seconds for cancelled requests to end, and for falling asleep."""
TOLERANCE = 1e-6
"""Relative difference of two sums over the same weights in another order."""


log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Job:
    """One group under way."""

    prompt: Prompt
    rows: list[DecodedSequence]
    salts: dict[int, str] = field(default_factory=dict)
    """Of each row that was asked for: the version that began it keeps its cached prefixes apart from another's."""


class VllmEngine:
    """Generates with vLLM. Every method may be called from any thread; requests live in the engine's event loop."""

    def __init__(
        self, llm: AsyncEngine, tokenizer: Any, loop: EventLoop, *, request: Request, batch: int, limit: int, kind: str
    ) -> None:
        self.llm, self.loop, self.request, self.limit = llm, loop, request, limit
        self.kind = kind
        """What a model must have in common with this one to take its place."""
        self._model = -1
        self._introduce(tokenizer)
        self._slots = asyncio.Semaphore(AHEAD * batch)
        self._open = asyncio.Event()
        self._open.set()
        self._inside = 0
        self._numbers = itertools.count()
        self._running: list[_Job] = []
        self._streams: set[Any] = set()
        self._halted = False
        self._parked = False
        self._asleep: set[str] = set()
        self._hollow = False
        self._updating = False
        self._joined = self._closed = False
        self._waking = asyncio.Lock()

    def _introduce(self, tokenizer: Any) -> None:
        self.chat = ChatFormat(tokenizer)
        self.stops = sorted(self.chat.stops)
        self.version = 0
        self._model += 1

    # ------------------------------------------------------------ generate

    def generate(self, prompts: Sequence[Prompt], n: int, params: SamplingParams, seed: int) -> Iterator[Group]:
        """Groups of `n` completions, each as soon as its last one is done.

        Raises:
            InputError: prompt and completion don't fit the context.
            RunError: vLLM died, or no group was done in GROUP_PATIENCE seconds.
        """
        model = self._model
        if self._parked:
            raise RunError("the rollout worker was freed: load a model first")
        if self._halted:
            return
        jobs = []
        for prompt in prompts:
            ids = encode(self.chat, prompt)
            most = room(prompt, ids, params)
            if most <= 0:
                yield unspoken(self.chat, prompt, ids, n)
                continue
            if len(ids) + most > self.limit:
                raise InputError(
                    f"prompt and completion need {len(ids) + most} tokens, vLLM was started for {self.limit}",
                    fix="lower max_tokens, or raise cluster.rollout.max_context as far as the model and the GPU allow",
                )
            rows = [
                DecodedSequence(group=0, index=i, prompt_ids=ids, most=most,
                    budget=ThinkingBudget.watch(self.chat, params.thinking_budget, ids))
                for i in range(n)
            ]  # fmt: skip
            for row in rows:
                if prompt.begun:
                    row.take_up(prompt.begun[row.index])
            jobs.append(_Job(prompt=prompt, rows=rows))
        yield from self._follow(jobs, params, seed, model)

    def _follow(self, jobs: list[_Job], params: SamplingParams, seed: int, model: int) -> Iterator[Group]:
        """Hands the groups on; whoever stops listening ends their requests."""
        done: queue.SimpleQueue[_Job | BaseException | None] = queue.SimpleQueue()
        stream = self.loop.start(self._all(jobs, params, seed, model, done))
        stream.add_done_callback(lambda _: done.put(None))  # cancelled before its first step, it says nothing itself
        try:
            while (found := done.get(timeout=GROUP_PATIENCE)) is not None:
                if isinstance(found, BaseException):
                    raise found
                yield as_group(self.chat, found.prompt, found.rows)
        except queue.Empty:
            raise RunError(f"vLLM finished no group in {GROUP_PATIENCE:.0f} s") from None
        finally:
            stream.cancel()

    async def _all(
        self, jobs: list[_Job], params: SamplingParams, seed: int, model: int, done: queue.SimpleQueue[Any]
    ) -> None:
        """Decodes all jobs; what it puts last is None, or the error that ended it."""
        me = asyncio.current_task()
        self._streams.add(me)
        try:
            if self._halted or model != self._model:  # told so while prompts were encoded
                return
            await self._awake()
            async with asyncio.TaskGroup() as tasks:
                for job in jobs:
                    tasks.create_task(self._group(job, params, seed, done))
        except ExceptionGroup as errors:
            done.put(plain_error(errors))
        except Exception as error:  # noqa: BLE001  it isn't swallowed: `_follow` raises it
            done.put(plain_error(error))
        finally:
            self._streams.discard(me)
            done.put(None)

    async def _group(self, job: _Job, params: SamplingParams, seed: int, done: queue.SimpleQueue[Any]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for row in job.rows:
                    tasks.create_task(self._row(job, row, params, seed))
        finally:
            if job in self._running:
                self._running.remove(job)
        done.put(job)

    async def _row(self, job: _Job, row: DecodedSequence, params: SamplingParams, seed: int) -> None:
        async with self._slots:
            while row.finish is None:
                while row.finish is None and row.over_budget():
                    row.add(row.forced.pop(0), 0.0, Source.INJECTED, self.version, self.chat.stops)
                while not self._open.is_set():  # asked again: it may have closed between being let in and going on
                    await self._reopened()
                if row.finish is None:
                    await self._ask(job, row, params, seed)

    async def _reopened(self) -> None:
        try:
            await asyncio.wait_for(self._open.wait(), PATIENCE)
        except TimeoutError:
            raise RunError(f"new weights were announced, and weren't there after {PATIENCE:.0f} s") from None

    async def _ask(self, job: _Job, row: DecodedSequence, params: SamplingParams, seed: int) -> None:
        """The rest of the row, as far as it goes: to its end, to its budget, or to new weights."""
        if job not in self._running:
            self._running.append(job)
        if not row.ids or row.index not in job.salts:
            job.salts[row.index] = f"{self._model}.{self.version}"
        salt = job.salts[row.index]
        # Where it goes on, it draws from another stream: vLLM may begin a request's stream anew, or not.
        own = derived_seed(seed, job.prompt.id, row.index, len(row.ids))
        prompt = {"prompt_token_ids": [*row.prompt_ids.tolist(), *row.ids], "cache_salt": salt}
        asked = self.request(params, row.most - len(row.ids), own, self.stops)
        self._inside += 1
        try:
            async with aclosing(self.llm.generate(prompt, asked, f"row-{next(self._numbers)}")) as outputs:
                async for output in outputs:
                    if self._take(row, output.outputs[0]):
                        return
        finally:
            self._inside -= 1

    def _take(self, row: DecodedSequence, output: Any) -> bool:
        """Adds what came; says whether the request is over."""
        ids = list(output.token_ids)
        for token, logprob in zip(ids, sampled_logprobs(output.logprobs, len(ids)), strict=True):
            row.add(token, logprob, Source.SAMPLED, self.version, self.chat.stops)
            if row.finish or row.over_budget():
                return True
        if output.finish_reason is None or (output.finish_reason == "abort" and not self._open.is_set()):
            return output.finish_reason is not None
        raise RunError(
            f"vLLM ended a completion of {len(row.ids)} tokens by itself: {output.finish_reason}",
            fix="a NaN in the logits, or a cache too small for one sequence, ends requests",
        )

    def partials(self) -> list[Group]:
        """The groups that were begun, as far as vLLM has handed them over: unfinished completions end with `abort`."""

        async def now() -> list[Group]:
            return [as_group(self.chat, job.prompt, job.rows) for job in self._running]

        return self.loop.call(now(), PATIENCE)

    def interrupt(self) -> None:
        """Cancel all requests; what is unfinished isn't handed on."""
        self._halted = True

        async def cancel() -> None:
            for stream in self._streams:
                stream.cancel()

        self.loop.call(cancel(), PATIENCE)

    # ------------------------------------------------------------ weights

    def connect(self, info: dict[str, Any]) -> None:
        """Meet the learner: `info` is what vLLM's transfer engine wants to know at the start."""
        self._joined = True
        self.loop.call(self._rpc("init_weight_transfer_engine", init_info=info), PATIENCE)

    def begin_update(self) -> None:
        """Make room for new weights: every row hands over what it has, and waits."""
        self.loop.call(self._begin_update(), PATIENCE)

    async def _begin_update(self) -> None:
        self._updating = True
        self._open.clear()
        async with asyncio.timeout(PATIENCE):
            while self._inside:  # those whose requests were on their way to vLLM are caught by the next round
                await self.llm.pause_generation(mode="abort", clear_cache=False)
        if "weights" in self._asleep:
            await self.llm.wake_up(["weights"])
            self._asleep.discard("weights")
        await self._rpc("begin_weights")

    def receive(self, info: dict[str, Any]) -> None:
        """A part of the new weights, as vLLM's transfer engine wants it told."""
        self.loop.call(self._rpc("take_weights", update_info=info), PATIENCE)

    def end_update(self, version: int, expected: float | None) -> None:
        """All weights are here: go on with them, as `version`. `expected`: the sum that their sender has of them.

        Raises:
            RunError: the sums differ.
        """
        self.loop.call(self._end_update(version, expected), PATIENCE)

    async def _end_update(self, version: int, expected: float | None) -> None:
        await self._rpc("end_weights")
        if self._joined:
            await self._rpc("drop_cached")
        if expected is not None:
            total = await self._checksum()
            if total is None:
                log.warning("new weights can't be compared by their sums: fewer key-value heads than GPUs an engine")
            elif not abs(total - expected) <= TOLERANCE * abs(expected):  # nan agrees with nothing
                raise RunError(f"vLLM's weights sum to {total!r} after a transfer, the learner's to {expected!r}")
        self.version, self._hollow, self._updating = version, False, False
        if not self._asleep:
            await self.llm.resume_generation()
            self._open.set()

    async def _checksum(self) -> float | None:
        """The sum of |w| over the whole model, that of the learner after a transfer; None if it can't be told.

        What all tensor-parallel ranks have alike is the same weight, else each has a part of it.
        """
        ranks = await self._rpc("weight_sums")
        if any(sums is None for sums in ranks):
            return None
        parts = zip(*ranks, strict=True)
        return math.fsum(own[0] if len(set(own)) == 1 else math.fsum(own) for own in parts)

    async def _rpc(self, method: str, **arguments: Any) -> Any:
        return await self.llm.collective_rpc(method, kwargs=arguments)

    # ------------------------------------------------------------ memory

    def rest(self) -> None:
        """Give the GPU's memory back until new weights come: weights and cache are dropped, graphs stay."""
        self.loop.call(self._rest(), PATIENCE)

    async def _rest(self) -> None:
        if self._streams or self._asleep:
            return
        self._open.clear()
        self._asleep, self._hollow = {"weights", "kv_cache"}, True
        await self.llm.sleep(level=2, mode="abort")

    async def _awake(self) -> None:
        """Before anything is generated."""
        async with self._waking:
            if self._hollow:
                raise RunError("vLLM dropped its weights to make room for the learner, and got none since")
            if self._asleep:
                await self.llm.wake_up(sorted(self._asleep))
                self._asleep.clear()
                await self.llm.resume_generation()
                self._open.set()

    # ------------------------------------------------------------ between stages

    def park(self, *, sleep: bool) -> bool:
        """End what runs and wait for `replace`, asleep if it can; whether it can be waited with at all."""
        self.interrupt()
        self._parked = True
        try:
            return self.loop.call(self._park(sleep), PARK_PATIENCE)
        except Exception as error:  # noqa: BLE001  whatever it is, a fresh start follows
            log.warning("vLLM can't be kept for the next stage, and starts anew: %s", error)
            return False

    async def _park(self, sleep: bool) -> bool:
        while self._streams:  # cancelled: each ends at its next step
            await asyncio.sleep(0.01)
        if self._updating or self._joined:  # left within an update; or a member of a group that ends with its learner
            return False
        if sleep:
            if len(self._asleep) == 1:  # the last new weights are awake, and vLLM falls asleep as a whole
                await self.llm.wake_up(sorted(self._asleep))
                self._asleep.clear()
            await self._rest()
        return True

    def replace(self, folder: str, tokenizer: Any) -> None:
        """Take up the checkpoint in `folder`, of the same kind, and generate again: version 0 of another model."""
        self.loop.call(self._replace(folder), PATIENCE)
        self._introduce(tokenizer)
        self._halted = self._parked = self._hollow = False

    async def _replace(self, folder: str) -> None:
        if "weights" in self._asleep:
            await self.llm.wake_up(["weights"])
            self._asleep.discard("weights")
        await self._rpc("reload_weights", weights_path=folder)

    def close(self) -> None:
        """End vLLM's processes; again: nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.interrupt()
        finally:
            self.llm.shutdown()
            self.loop.close()
