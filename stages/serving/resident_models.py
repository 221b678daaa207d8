"""Models that rewards ask and the run holds: judges in rollout workers, reward models in actors of their own.

A scorer is called from several threads; one thread of its own asks each model, so batches take turns. Actors live for
the whole run, since starting one takes seconds; the model in them is loaded with the first question and freed with the
scorer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from posttrain.configs.nodes.inputs import judge_source
from posttrain.configs.schema import Cluster, JudgeModel, ModelSource
from posttrain.errors import RewardError, RunError
from posttrain.rewards.contract import ChatClient, Conversation, RewardModelClient, RowError
from posttrain.rewards.models.answers import Answers, content_key, gather
from posttrain.rewards.models.endpoint import EndpointHost
from posttrain.stages.actors.gpus import Gpus
from posttrain.stages.models.locations import Locations, model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.pool import START_TIMEOUT, RolloutPool
from posttrain.stages.serving.judges import JudgeHolder
from posttrain.stages.serving.reward_models import RewardModelHolder, RewardModelPool

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Holder(Protocol[T_co]):
    """A model in actors; called from one thread."""

    def load(self) -> None: ...

    def answers(
        self, keys: Sequence[str], conversations: Sequence[Conversation]
    ) -> Iterator[tuple[str, T_co | RowError]]:
        """(key, answer) of each conversation, as they are done."""
        ...

    def free(self) -> None: ...


class ResidentModel(Generic[T]):
    """Asks a holder: lazily loaded, each conversation once, every wait bounded."""

    def __init__(self, name: str, holder: Holder[T]) -> None:
        self._name, self._holder = name, holder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="held-model")
        self._lock = threading.Lock()
        self._loading: Future[None] | None = None
        self._answers: Answers[T] = Answers()

    def ask(self, conversations: Sequence[Conversation], timeout_s: float) -> list[T | RowError]:
        """One answer a conversation, in order, within `timeout_s` seconds once the model is loaded.

        Raises:
            RewardError: the model can't be loaded.
            RunError: an actor died.
        """
        self._load()
        deadline = time.monotonic() + timeout_s
        keys = [content_key([dict(message) for message in conversation]) for conversation in conversations]
        futures, owed = self._answers.claim(keys)
        if owed:
            due = {keys[i]: futures[i] for i in owed}
            self._thread.submit(self._settle, due, [conversations[i] for i in owed])
        late = f"the model {self._name!r} gave no answer within the reward's timeout of {timeout_s:g} s: raise it"
        return gather(futures, deadline, late)

    def close(self) -> None:
        """Frees the model, once what is asked now has been answered."""
        try:
            if self._loading is not None and self._loading.done() and self._loading.exception() is None:
                self._thread.submit(self._holder.free).result(timeout=START_TIMEOUT)
        except FutureTimeout:
            raise RunError(f"the model {self._name!r} wasn't freed in {START_TIMEOUT:.0f} s") from None
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> None:
        with self._lock:
            self._loading = self._loading or self._thread.submit(self._holder.load)
        try:
            self._loading.result(timeout=START_TIMEOUT + 10)
        except (RunError, FutureTimeout) as error:
            what = error.what if isinstance(error, RunError) else f"it took over {START_TIMEOUT:.0f} s"
            raise RewardError(
                f"the model {self._name!r}, which a reward asks, can't be loaded: {what}",
                where="rewards",
                fix="is it a whole checkpoint? and are there as many GPUs as `cluster.rollout` says, for it alone?",
            ) from error

    def _settle(self, due: Mapping[str, Future[T | RowError]], conversations: Sequence[Conversation]) -> None:
        try:
            for key, answer in self._holder.answers(list(due), conversations):
                due[key].set_result(answer)
        except BaseException as error:  # noqa: BLE001  it belongs to those who wait for the answers
            for future in due.values():
                if not future.done():
                    future.set_exception(error)


class ModelActors:
    """The actors of held models, kept for the whole run and handed from scorer to scorer."""

    def __init__(self, cluster: Cluster, gpus: Callable[[], Gpus]) -> None:
        self._cluster, self._gpus = cluster, gpus
        self._idle: dict[type, list[Any]] = {RolloutPool: [], RewardModelPool: []}
        self._all: list[Any] = []

    def take(self, kind: type[T]) -> T:
        """Idle actors of a kind, or new ones."""
        if self._idle[kind]:
            return self._idle[kind].pop()
        self._all.append(kind(self._cluster, self._gpus(), held=True))  # type: ignore[call-arg]
        return self._all[-1]

    def give_back(self, pool: Any) -> None:
        """They hold no model any more."""
        self._idle[type(pool)].append(pool)

    def close(self) -> None:
        """End the actors."""
        for pool in self._all:
            pool.close()
        self._all.clear()


@dataclass(frozen=True)
class ResidentModelClient(Generic[T]):
    """A held model as one reward asks it: within that reward's timeout."""

    model: ResidentModel[T]
    timeout_s: float

    def ask(self, conversations: Sequence[Conversation]) -> list[T | RowError]:
        """See ChatClient."""
        return self.model.ask(conversations, self.timeout_s)

    def score(self, conversations: Sequence[Conversation]) -> list[T | RowError]:
        """See RewardModelClient."""
        return self.model.ask(conversations, self.timeout_s)


class RunHost(EndpointHost):
    """The ModelHost of a stage: endpoints, and models that the run holds."""

    def __init__(self, actors: ModelActors, locations: Locations) -> None:
        super().__init__()
        self._actors, self._locations = actors, locations
        self._held: list[tuple[JudgeModel | ModelSource, ResidentModel[Any]]] = []

    def chat(self, judge: JudgeModel, timeout_s: float) -> ChatClient:
        """See ModelHost. Raises InputError where there is no such model."""
        if judge.source is None:
            return super().chat(judge, timeout_s)
        spec = self._spec(judge_source(judge))
        return ResidentModelClient(
            self._hold(judge, judge.source, lambda: JudgeHolder(judge, spec, self._actors)), timeout_s
        )

    def reward_model(self, model: ModelSource, timeout_s: float) -> RewardModelClient:
        """See ModelHost. Raises InputError where there is no such model."""
        spec = self._spec(model)
        return ResidentModelClient(
            self._hold(model, model.source, lambda: RewardModelHolder(spec, self._actors)), timeout_s
        )

    def close(self) -> None:
        """Ends all requests, frees all models."""
        super().close()
        held, self._held = self._held, []
        for _, model in held:
            model.close()

    def _spec(self, source: ModelSource) -> ModelSpec:
        path, found = model_path(self._locations, source)
        return ModelSpec.of(path, found)

    def _hold(self, asked: JudgeModel | ModelSource, name: str, make: Callable[[], Holder[Any]]) -> ResidentModel[Any]:
        for known, model in self._held:
            if known == asked:
                return model
        self._held.append((asked, ResidentModel(name, make())))
        return self._held[-1][1]
