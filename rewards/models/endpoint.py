"""A judge behind an OpenAI-compatible endpoint: so many requests at once, so many a minute, retries, a memory.

What may pass (a timeout, a lost connection, 408, 409, 429, 5xx) is tried again with growing pauses, within the reward's
`timeout`. What can't (a wrong key, no such model, a spent quota) stops the run at once. What only this conversation
meets (it is too long, say) costs its own row.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from posttrain.configs.schema import JudgeModel, ModelSource
from posttrain.errors import InputError, RewardError
from posttrain.rewards.contract import ChatClient, Conversation, RewardModelClient, RowError
from posttrain.rewards.models.answers import Answers, content_key, gather

_MAY_PASS = frozenset({408, 409, 425, 429})
_HOPELESS = frozenset({401, 402, 403, 404, 405})
_LONGEST_PAUSE_S = 20.0
_GRACE_S = 1.0
"""How long after the deadline a request that ends at it may take to say so."""


class Rate:
    """Slots in time, `per_minute` of them, evenly spread; None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._apart = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def take(self, deadline: float) -> float | None:
        """Seconds to wait for the next slot, which is then taken; None where it lies behind `deadline`."""
        with self._lock:
            now = time.monotonic()
            slot = max(now, self._next)
            if slot > deadline:
                return None
            self._next = slot + self._apart
            return slot - now


class Endpoint:
    """One judge at one endpoint, shared by all who ask it. `read` makes an answer of a reply: its text, by default."""

    def __init__(self, judge: JudgeModel, read: Callable[[Any, JudgeModel], str | RowError] | None = None) -> None:
        import openai

        self._read = read or _text
        self._judge, self._rate = judge, Rate(judge.requests_per_minute)
        # Without a key of its own, the library would send OPENAI_API_KEY to whatever endpoint.
        self._key = judge.api_key.get_secret_value() if judge.api_key is not None else "none"
        self._client = openai.OpenAI(base_url=judge.endpoint, api_key=self._key, max_retries=0)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(judge.concurrency, thread_name_prefix="judge")
        self._answers: Answers[str] = Answers()
        self._closed = threading.Event()
        self._counted: Counter[str] = Counter()
        self._request: dict[str, Any] = {"model": judge.model, "extra_body": judge.extra or None}
        self._request |= {n: v for n in ("max_tokens", "temperature") if (v := getattr(judge, n)) is not None}

    def ask(self, conversations: Sequence[Conversation], timeout_s: float) -> list[str | RowError]:
        """See ChatClient. All answers, within `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        turns = [[dict(message) for message in conversation] for conversation in conversations]
        futures, owed = self._answers.claim([content_key(messages) for messages in turns])
        self._count(questions=len(turns), remembered=len(turns) - len(owed))
        for position in owed:
            self._threads.submit(self._settle, futures[position], turns[position], deadline)
        late = f"the judge at {self._judge.endpoint} gave no answer within the reward's timeout of {timeout_s:g} s"
        return gather(futures, deadline + _GRACE_S, late)

    def take_counts(self) -> Counter[str]:
        """Since the last call: questions, those remembered, requests, and tokens of both sides as the server says."""
        with self._lock:
            taken, self._counted = self._counted, Counter()
        return taken

    def close(self) -> None:
        """Ends all requests."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _settle(self, future: Future[str | RowError], messages: list[dict[str, Any]], deadline: float) -> None:
        try:
            future.set_result(self._answer(messages, deadline))
        except BaseException as error:  # noqa: BLE001  it belongs to those who wait for the answer
            future.set_exception(error)

    def _answer(self, messages: list[Any], deadline: float) -> str | RowError:
        """One conversation, tried until it is answered, hopeless, out of retries or out of time."""
        import openai

        failure, tries = "", 0
        for number in range(self._judge.retries + 1):
            wait = self._rate.take(deadline)
            if wait is None and self._judge.requests_per_minute:
                limit = (
                    f"not asked, for {self._judge.requests_per_minute:g} requests a minute; raise the reward's timeout"
                )
                return self._error(limit + (failure and f"; {failure}"))
            if wait is None or self._closed.wait(wait):
                break
            left, tries = deadline - time.monotonic(), number + 1
            if left <= 0:
                break
            self._count(requests=1)
            try:
                timeout = min(self._judge.timeout, left)
                reply = self._client.chat.completions.create(messages=messages, timeout=timeout, **self._request)
            except openai.APIStatusError as error:
                failure = self._refusal(error)
                if error.status_code not in _MAY_PASS and error.status_code < 500:
                    return self._error(failure)
                pause = _pause(number, error.response.headers.get("retry-after"))
            except openai.APIError as error:  # no connection, a timeout, an answer that isn't the protocol's
                failure, pause = f"{type(error).__name__}: {self._hidden(str(error))}", _pause(number, None)
            else:
                usage = getattr(reply, "usage", None)
                spent = {n: getattr(usage, n, None) or 0 for n in ("prompt_tokens", "completion_tokens")}
                self._count(**spent)
                return self._read(reply, self._judge)
            if time.monotonic() + pause > deadline or self._closed.wait(pause):
                break
        return self._error(f"no answer in {tries} {'try' if tries == 1 else 'tries'}: {failure or 'out of time'}")

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counted.update(counts)

    def _refusal(self, error: Any) -> str:
        """What a status says. Raises RewardError where every request would meet it."""
        said = f"status {error.status_code}: {self._hidden(str(error.message))[:300]}"
        if error.status_code in _HOPELESS or getattr(error, "code", None) == "insufficient_quota":
            raise RewardError(
                f"the judge {self._judge.model!r} at {self._judge.endpoint} refuses to be asked: {said}",
                where="rewards",
                fix="check the judge's `endpoint` (with its /v1), `model` and `api_key`, and run again",
            ) from error
        return said

    def _error(self, what: str) -> RowError:
        return RowError(f"the judge at {self._judge.endpoint}: {what}")

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._judge.api_key is not None and self._key else text


def _pause(number: int, retry_after: str | None) -> float:
    try:
        asked = float(retry_after or 0)
    except ValueError:  # a date: too far away to wait for
        asked = 0.0
    grown: float = 0.5 * 2**number * random.uniform(0.75, 1.25)  # spread, so that all who failed don't return at once
    return min(_LONGEST_PAUSE_S, grown) if asked <= 0 else asked


def _text(reply: Any, judge: JudgeModel) -> str | RowError:
    choices = getattr(reply, "choices", None)
    if not choices:
        return RowError(f"{judge.endpoint} doesn't speak the chat completions API: it said {str(reply)[:120]!r}")
    text = choices[0].message.content
    if choices[0].finish_reason == "length":
        return RowError(f"the judge's answer was cut at {judge.max_tokens} tokens: raise the judge's `max_tokens`")
    return text if isinstance(text, str) else RowError(f"the judge said nothing ({choices[0].finish_reason})")


@dataclass(frozen=True)
class Asking:
    """An endpoint as one reward asks it: within that reward's timeout."""

    endpoint: Endpoint
    timeout_s: float

    def ask(self, conversations: Sequence[Conversation]) -> list[str | RowError]:
        """See ChatClient."""
        return self.endpoint.ask(conversations, self.timeout_s)


class EndpointHost:
    """A ModelHost of judges behind endpoints; it holds no model itself."""

    def __init__(self) -> None:
        self._endpoints: list[tuple[JudgeModel, Endpoint]] = []

    def chat(self, judge: JudgeModel, timeout_s: float) -> ChatClient:
        """See ModelHost."""
        if judge.source is not None:
            raise InputError(
                f"the judge {judge.source!r} is held by a run's workers, and this is no run",
                where="rewards",
                fix="name an endpoint, like {endpoint: http://localhost:8000/v1, model: NAME}",
            )
        for known, endpoint in self._endpoints:
            if known == judge:
                return Asking(endpoint, timeout_s)
        self._endpoints.append((judge, Endpoint(judge)))
        return Asking(self._endpoints[-1][1], timeout_s)

    def reward_model(self, model: ModelSource, timeout_s: float) -> RewardModelClient:
        """See ModelHost."""
        raise InputError(f"the reward model {model.source!r} needs a run, which holds it", where="rewards")

    def metrics(self) -> dict[str, float]:
        """What all endpoints counted since the last call: see `Endpoint.take_counts`."""
        total: Counter[str] = Counter()
        for _, endpoint in self._endpoints:
            total.update(endpoint.take_counts())
        return {name: float(count) for name, count in total.items()}

    def close(self) -> None:
        """Ends all requests."""
        for _, endpoint in self._endpoints:
            endpoint.close()
