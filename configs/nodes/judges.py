"""Models that rewards ask: a language model that judges, by an endpoint or held by the run itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field, SecretStr, field_validator, model_validator

from posttrain.configs.nodes.strict import Strict, differing

HOW = frozenset({"api_key", "timeout", "retries", "concurrency", "requests_per_minute"})
"""Fields that say how a judge is asked, not what it answers: a stage's key leaves them out."""

_ENDPOINT_ONLY = ("model", "api_key", "timeout", "retries", "concurrency", "requests_per_minute", "extra")
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


class JudgeModel(Strict):
    """A language model that judges: behind an OpenAI-compatible endpoint, or one that the run's own workers hold.

    >>> JudgeModel.model_validate({"endpoint": "http://localhost:8000/v1", "model": "Qwen/Qwen3-8B"})
    >>> JudgeModel.model_validate({"from": "general_rl"})
    """

    endpoint: str | None = Field(None, description="Base URL of an OpenAI-compatible server, with its /v1.")
    model: str | None = Field(None, description="The model's name at the endpoint.")
    api_key: SecretStr | None = Field(None, description="A reference such as ${OPENAI_API_KEY}; never the key itself.")
    source: str | None = Field(
        None,
        alias="from",
        description=("A stage, `base`, `builtin:NAME`, a folder or a Hub id that the run holds; replaces `endpoint`."),
    )
    revision: str | None = Field(None, description="Revision of `from` on the Hub.")
    max_tokens: int | None = Field(
        1024, ge=1, description="Most tokens per answer; null leaves the limit to the endpoint."
    )
    temperature: float | None = Field(
        0.0, ge=0, description="Sampling temperature; 0 is greedy, and null leaves it to the endpoint."
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="Additional fields of the request to the endpoint.")
    timeout: float = Field(60.0, gt=0, description="Seconds per request. The reward's own `timeout` applies as well.")
    retries: int = Field(4, ge=0, description="Number of retries after a temporary failure, with growing pauses.")
    concurrency: int = Field(8, ge=1, description="Concurrent requests.")
    requests_per_minute: float | None = Field(
        None, gt=0, description="Most requests per minute, spread evenly; default: no limit."
    )

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/]", value):
            raise ValueError("an endpoint is a URL, like https://api.openai.com/v1 or http://localhost:8000/v1")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> JudgeModel:
        if (self.endpoint is None) == (self.source is None):
            raise ValueError(
                "a judge is {endpoint: URL, model: NAME, api_key: ${NAME}} or {from: a stage, a folder or a Hub id}"
            )
        if self.endpoint is not None and self.model is None:
            raise ValueError("a judge at an endpoint needs `model`, its name there")
        if self.endpoint is not None and self.revision is not None:
            raise ValueError("`revision` belongs to `from`; an endpoint has none")
        if self.source is not None:
            useless = [name for name in _ENDPOINT_ONLY if name in differing(self)]
            if useless:
                raise ValueError(f"`{useless[0]}` belongs to `endpoint`; a judge that the run holds has none")
            if self.max_tokens is None or self.temperature is None:
                raise ValueError("a judge that the run holds needs numbers for `max_tokens` and `temperature`")
        return self


def literal_keys(raw: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of `api_key`s of judges in plain data that aren't one reference `${NAME}`: a key itself, or a default."""
    if isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from literal_keys(value, (*at, index))
    if not isinstance(raw, dict):
        return
    for name, value in raw.items():
        given = value.get("api_key") if name in ("judge", "endpoint") and isinstance(value, dict) else None
        if given is not None and not (isinstance(given, str) and _REFERENCE.fullmatch(given)):
            yield (*at, name, "api_key")
        yield from literal_keys(value, (*at, name))


LITERAL_KEY = "is a key itself, which files and logs would keep; write a reference: api_key: ${OPENAI_API_KEY}"
