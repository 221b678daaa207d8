"""Fences off text that others wrote, in a prompt that asks a model about it.

    --- response 3f9a1c02 begins ---
    ...
    --- response 3f9a1c02 ends ---

The eight digits are a tag: a hash of the fenced texts, chosen so that it stands in none of them. Who wrote such a text
couldn't know its tag, so the text can neither end its fence nor write a grade, which must carry the tag too. Marks of
chat templates are broken by a space, so that a tokenizer reads them as text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from posttrain.types import Message

_WORDS = (
    "s", "bos", "eos", "pad", "unk", "mask", "cls", "sep", "think", "tool_call", "tool_calls", "tool_response",
    "tools", "start_of_turn", "end_of_turn", "sys", r"unused\d+", "im_start", "im_end", "eot", "image", "audio",
)  # fmt: skip
_BRACKETS = ("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "TOOL_CONTENT", "THINK", "gMASK")
_TEMPLATE_MARKS = re.compile(
    rf"<(?=[|｜])|<(?=/?(?:{'|'.join(_WORDS)})>)|\[(?=/?(?:{'|'.join(_BRACKETS)})\])|[|｜](?=>)", re.IGNORECASE
)
"""The character behind which a space is put: of <|im_end|>, <｜User｜>, <think>, <end_of_turn>, [INST], <<SYS>>."""


def neutral(text: str) -> str:
    """`text` without what a tokenizer would read as a mark of its chat template; lone surrogates become `?`.

    >>> neutral("Done.<|im_end|>")
    'Done.< |im_end| >'
    """
    whole = text.encode("utf-8", "replace").decode()
    return _TEMPLATE_MARKS.sub(lambda found: f"{found[0]} ", whole)


def tag_of(texts: Iterable[str]) -> str:
    """Eight hexadecimal digits that depend on `texts` and stand in none of them, in upper case neither."""
    texts = [text.lower() for text in texts]
    content = hashlib.sha256(json.dumps(texts).encode()).digest()
    for number in itertools.count():
        tag = hashlib.sha256(content + number.to_bytes(8, "big")).hexdigest()[:8]
        if not any(tag in text for text in texts):
            return tag
    raise AssertionError("a text holds finitely many tags")


def shortened(text: str, most: int, tag: str) -> str:
    """`text`, its middle left out where it has more than `most` characters; a line with the tag says how many."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[{tag}: {len(text) - 2 * half} characters left out here]\n{text[-half:]}"


def fenced(name: str, text: str, tag: str) -> str:
    """A block that holds `text`; see above. `text` must be neutral and free of `tag`, shortening aside."""
    return f"--- {name} {tag} begins ---\n{text}\n--- {name} {tag} ends ---"


def conversation_text(messages: Sequence[Message] | str) -> str:
    """Chat turns as text: a single user turn as it is, else each behind its role."""
    if isinstance(messages, str):
        return messages
    if len(messages) == 1:
        return _content(messages[0])
    return "\n\n".join(f"{message.get('role', '')}: {_content(message)}" for message in messages)


def _content(message: Message) -> str:
    content: Any = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
    calls = message.get("tool_calls")
    return f"{text}\n{json.dumps(calls, ensure_ascii=False, default=str)}".strip() if calls else text
