"""Rewards on the text of an answer: equality, keywords, patterns, JSON, choices, length, repetition."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case

_MAX_PATTERN_TEXT = 100_000
_CHOICE = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Z])\)?\s*\}?\s*\}|answer\s*(?:is|:)\s*\**\(?([A-Z])\b", re.I)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, runs of white space as one blank, no final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()


def exact(
    prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the answer equals the column `answer` up to case, white space and a final full stop."""
    return [
        None if gold is None else float(normalise(text) == normalise(str(gold)))
        for text, gold in zip(completions, answer, strict=True)
    ]


def contains(
    prompts: Sequence[Any], completions: Sequence[str], keywords: Sequence[Any], **columns: Any
) -> list[float | None]:
    """The share of the column `keywords` (text or a list) that stand in the answer as whole words."""
    return [_share(text, words) for text, words in zip(completions, keywords, strict=True)]


def _share(text: str, keywords: Any) -> float | None:
    words = [keywords] if isinstance(keywords, str) else list(keywords or ())
    if not words:
        return None
    found = [re.search(rf"(?<!\w){re.escape(normalise(w))}(?!\w)", normalise(text)) for w in words]
    return sum(m is not None for m in found) / len(words)


def regex(prompts: Sequence[Any], completions: Sequence[str], *, pattern: str, **columns: Any) -> list[float]:
    """1.0 where the parameter `pattern` is found in the answer. Runs in a worker: patterns can backtrack for ever."""
    compiled = re.compile(pattern, re.DOTALL)
    return [float(compiled.search(text[:_MAX_PATTERN_TEXT]) is not None) for text in completions]


def json_schema(
    prompts: Sequence[Any], completions: Sequence[str], schema: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the answer is JSON (fenced or bare) that fits the column `schema`.

    Read of JSON Schema: type, properties, required, items, enum, additionalProperties: false. A schema that says
    more is not applicable, so that nothing passes that was not checked.
    """
    return [_fits_text(text, wanted) for text, wanted in zip(completions, schema, strict=True)]


_KNOWN = {"type", "properties", "required", "items", "enum", "additionalProperties", "title", "description", "$schema"}


def _understood(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or set(schema) - _KNOWN or schema.get("type", "object") not in _TYPES:
        return False
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return schema.get("additionalProperties", True) in (True, False) and all(map(_understood, inner))


def _fits_text(text: str, schema: Any) -> float | None:
    schema = json.loads(schema) if isinstance(schema, str) else schema
    if not _understood(schema):
        return None
    fenced = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    try:
        return float(_fits(json.loads(fenced[-1] if fenced else text), schema))
    except (ValueError, RecursionError):  # the model's JSON, not ours
        return 0.0


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    if "type" in schema:
        kinds = _TYPES[schema["type"]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", ())):
            return False
        if schema.get("additionalProperties") is False and set(value) - set(properties):
            return False
        return all(_fits(v, properties[k]) for k, v in value.items() if k in properties)
    if isinstance(value, list) and "items" in schema:
        return all(_fits(v, schema["items"]) for v in value)
    return True


def multiple_choice(
    prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the last stated choice (boxed, `answer is X`, or the bare letter) is the column `answer`."""
    return [
        None if gold is None else float(_choice(text) == str(gold).strip(" ().").upper())
        for text, gold in zip(completions, answer, strict=True)
    ]


def _choice(text: str) -> str | None:
    bare = text.strip().strip("().*").upper()
    if len(bare) == 1 and bare.isalpha():
        return bare
    found = [m.group(1) or m.group(2) for m in _CHOICE.finditer(text[-_MAX_PATTERN_TEXT:])]
    return found[-1].upper() if found else None


def length_target(
    prompts: Sequence[Any], completions: Sequence[str], target_words: Sequence[Any], **columns: Any
) -> list[float | None]:
    """max(0, 1 - |words - target| / target), target from the column `target_words`."""
    return [
        None if not target else max(0.0, 1 - abs(len(text.split()) - int(target)) / int(target))
        for text, target in zip(completions, target_words, strict=True)
    ]


def repetition(
    prompts: Sequence[Any], completions: Sequence[str], *, n: int = 3, penalty: float = -1.0, **columns: Any
) -> list[float]:
    """`penalty` times the share of word n-grams that are repeats; 0.0 for none (arXiv 2502.03373, 2.3)."""
    return [penalty * _repeated(text.split(), n) for text in completions]


def _repeated(words: list[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


_JSON_SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}

REWARDS: dict[str, BuiltinReward] = {
    "exact": BuiltinReward(
        function=exact,
        columns=("answer",),
        doc="equals the column `answer` up to case and white space",
        gold=Case(completion="  paris. ", columns={"answer": "Paris"}),
        adversarial=Case(completion="Paris, or Rome", columns={"answer": "Paris"}),
    ),
    "contains": BuiltinReward(
        function=contains,
        columns=("keywords",),
        doc="share of the column `keywords` in the answer",
        gold=Case(completion="A cat and a dog.", columns={"keywords": ["cat", "dog"]}),
        adversarial=Case(completion="Catalogues are dogmatic.", columns={"keywords": ["cat", "dog"]}),
    ),
    "regex": BuiltinReward(
        function=regex,
        params=("pattern",),
        needs="worker",
        doc="the parameter `pattern` is found in the answer",
        gold=Case(completion="It was in 1969.", params={"pattern": r"\b19\d\d\b"}),
        adversarial=Case(completion="It was in 19699.", params={"pattern": r"\b19\d\d\b"}),
    ),
    "json_schema": BuiltinReward(
        function=json_schema,
        columns=("schema",),
        doc="JSON that fits the column `schema`",
        gold=Case(completion='```json\n{"a": 1}\n```', columns={"schema": _JSON_SCHEMA}),
        adversarial=Case(completion='{"a": "1"}', columns={"schema": _JSON_SCHEMA}),
    ),
    "multiple_choice": BuiltinReward(
        function=multiple_choice,
        columns=("answer",),
        doc="the last stated choice is the column `answer`",
        gold=Case(completion="The answer is (B).", columns={"answer": "B"}),
        adversarial=Case(completion="A, B, C or D", columns={"answer": "B"}),
    ),
    "length_target": BuiltinReward(
        function=length_target,
        columns=("target_words",),
        doc="nearness of the word count to the column `target_words`",
        gold=Case(completion="three small words", columns={"target_words": 3}),
        adversarial=Case(completion="three small words and ever so many more", columns={"target_words": 3}),
    ),
    "repetition": BuiltinReward(
        function=repetition,
        sees="completion",
        doc="penalty for repeated word n-grams (0 to -1)",
        full=0.0,
        gold=Case(completion="Every word of this text is new."),
        adversarial=Case(completion="and so on and so on and so on and so on"),
    ),
}
