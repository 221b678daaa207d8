"""The chat format of a model: prompts and training conversations to ids, by the tokenizer's own template.

A training target is rendered either as the last turn behind its prompt, as the model will be used, or, for every
assistant turn at once, by TRL's variant of Qwen3's template, which keeps all think blocks and marks what is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import DataError, HandoverError
from posttrain.flags import with_mode
from posttrain.stages.models.templates import training_template
from posttrain.thinking import CLOSE, EARLY_STOP, OPEN
from posttrain.types import Message, Mode, Prompt, Sample, Turn

_SAID = "posttrain-assistant-turn"
"""Stands for an assistant turn, where only what comes behind it is of interest."""


class ChatFormat:
    """Renders conversations for one tokenizer. `stops` are the ids that end a turn."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise HandoverError("the tokenizer has no chat template", fix="use a chat model, or builtin:tiny")
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.stops = frozenset(
            vocabulary[t] for t in (tokenizer.eos_token, "<|im_end|>", "<|endoftext|>") if t in vocabulary
        )
        self.end_of_turn: int = vocabulary.get("<|im_end|>", tokenizer.eos_token_id)
        self.open_id: int | None = vocabulary.get(OPEN)
        self.close_id: int | None = vocabulary.get(CLOSE)
        self.early_stop = tuple(self._encode(EARLY_STOP))
        self.empty_block = tuple(self._encode(f"\n\n{CLOSE}\n\n"))
        self._marks = [mark for mark in tokenizer.get_added_vocab() if mark.startswith("<")]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    # ------------------------------------------------------------ prompts

    def prompt_ids(self, prompt: Prompt) -> NDArray[np.int64]:
        """The ids a completion continues, mode applied."""
        ids = self.tokenizer.apply_chat_template(
            [dict(m) for m in with_mode(prompt)],
            tools=prompt.columns.get("tools"),
            add_generation_prompt=True,
            enable_thinking=prompt.mode != "closed",
            tokenize=True,
            return_dict=False,
        )
        return np.asarray(ids, np.int64)

    def turn_ids(self, turn: Turn, mode: Mode) -> NDArray[np.int64]:
        """The ids that the next assistant turn of an episode continues: all that stood, as it stood, and the results.

        What the template puts between two assistant turns is read off a conversation of its own. A mark of the
        vocabulary inside a result is broken up: a tool must not be able to end its turn and speak for others.

        Raises:
            HandoverError: the template doesn't show tool results.
        """
        results = [{"role": "tool", "content": self._plain(text)} for text in turn.results]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID}, *results],
            add_generation_prompt=True,
            enable_thinking=mode != "closed",
            tokenize=False,
        )
        end = self.tokenizer.convert_ids_to_tokens(self.end_of_turn)
        _, found, tail = rendered.partition(f"{_SAID}{end}")
        if not found or any(result["content"] not in tail for result in results):
            raise HandoverError(
                "the chat template doesn't show what tools say", fix="give the tokenizer Qwen3's template"
            )
        # A turn may also end with the end of all text: then its own end is still to come.
        closing = [] if turn.ids[-1] == self.end_of_turn else [self.end_of_turn]
        return np.concatenate([turn.ids, np.asarray([*closing, *self._encode(tail)], np.int64)])

    def _plain(self, text: str) -> str:
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion with its think and tool marks, without what ends the turn."""
        kept = [i for i in ids if i not in self.stops]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # ------------------------------------------------------------ training

    def conversation(self, messages: Sequence[Message], tools: Any = None, weight: float = 1.0) -> Sample:
        """A training sample: every assistant turn is target, with its think block and its end of turn.

        Raises:
            DataError: the template marks nothing as the assistant's.
        """
        encoded = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            tools=tools,
            chat_template=training_template(self.tokenizer.chat_template),
            return_assistant_tokens_mask=True,
            return_dict=True,
            tokenize=True,
        )
        ids = np.asarray(encoded["input_ids"], np.int64)
        mask = np.asarray(encoded["assistant_masks"], np.float32)
        # The turn's line end stands behind its stop token: a model that stopped never writes it.
        previous = np.concatenate(([-1], ids[:-1]))
        mask[np.isin(previous, list(self.stops)) & (mask > 0)] = 0
        if not mask.any():
            raise DataError("a conversation has no assistant turn to learn from")
        return Sample(ids=ids, loss_mask=mask, weight=weight)

    def last_turn(
        self, messages: Sequence[Message], tools: Any = None, weight: float = 1.0, *, closed: bool = False
    ) -> Sample:
        """A training sample whose only target is the last assistant turn.

        What precedes it is rendered as it will be when the model is used: earlier think blocks are gone. The target
        is what the template adds to that for the last turn, tool calls included, up to its end of turn. An empty think
        block is part of the target, since a soft switch has the model write it; `closed`, the hard switch, has it in
        the prompt, and the answer alone is the target.

        Raises:
            DataError: the template doesn't render the last turn behind the prompt, or drops its thinking.
        """
        render = partial(self.tokenizer.apply_chat_template, tools=tools, tokenize=False)
        context, last = [dict(m) for m in messages[:-1]], dict(messages[-1])
        before = render(context, add_generation_prompt=True, enable_thinking=not closed)
        prompt = self._encode(before)
        whole = render([*context, {**last, "content": last.get("content") or ""}])
        target = whole.removeprefix(before).rpartition(self.tokenizer.convert_ids_to_tokens(self.end_of_turn))[0]
        if (
            not whole.startswith(before)
            or not target
            or (last.get("reasoning_content") or "").strip("\n") not in target
        ):
            raise DataError(
                "the chat template doesn't render the last turn, with its thinking, behind the prompt",
                fix="give the tokenizer Qwen3's template",
            )
        ids = np.asarray([*prompt, *self._encode(target), self.end_of_turn], np.int64)
        mask = np.zeros(len(ids), np.float32)
        mask[len(prompt) :] = 1
        return Sample(ids=ids, loss_mask=mask, weight=weight)

    def document_ids(self, text: str) -> NDArray[np.int64]:
        """A plain document between two end-of-text tokens."""
        end = self.tokenizer.pad_token_id
        return np.asarray([end, *self._encode(text), end], np.int64)

    def fingerprint(self) -> dict[str, Any]:
        """What two models must share to be handed over: template hash, special tokens, stop ids."""
        vocabulary = self.tokenizer.get_vocab()
        digest = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()
        return {
            "chat_template_sha256": hashlib.sha256(self.tokenizer.chat_template.encode()).hexdigest(),
            "vocabulary_sha256": digest,
            "stop_ids": sorted(self.stops),
            "special_tokens": {
                t: vocabulary[t]
                for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", OPEN, CLOSE)
                if t in vocabulary
            },
        }


def check_handover(ours: Mapping[str, Any], theirs: Mapping[str, Any], left: str, right: str) -> None:
    """Stop if two fingerprints differ, with both sides shown.

    Raises:
        HandoverError: the field that differs, on both sides.
    """
    for name, value in ours.items():
        if name in theirs and theirs[name] != value:
            raise HandoverError(
                f"{name} differs: {left} has {value}, {right} has {theirs[name]}",
                fix="both must come from one base: same tokenizer, same chat template",
            )


def open_chat(path: str, revision: str | None = None) -> ChatFormat:
    """The chat format of the model at `path`; an artifact must still be what its manifest says.

    Raises:
        HandoverError: template, vocabulary, special tokens or stop ids differ from the manifest's.
    """
    from transformers import AutoTokenizer

    chat = ChatFormat(AutoTokenizer.from_pretrained(path, revision=revision))
    manifest = Path(path) / "manifest.json"
    if manifest.is_file():
        promised = json.loads(manifest.read_text(encoding="utf-8")).get("provenance", {})
        check_handover(promised, chat.fingerprint(), f"the manifest of {path}", "its tokenizer")
    return chat
