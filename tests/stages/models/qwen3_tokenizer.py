"""Qwen3's own tokenizer, from the ranks that the package dashscope carries: 151,643 tokens and 26 added ones."""

from __future__ import annotations

import base64
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
"""In the order of their ids, from 151643 on."""
_SPECIAL = 14  # the first ones, which skip_special_tokens leaves out


@cache
def qwen3_tokenizer() -> Any:
    """The fast tokenizer with TRL's copy of the template. Skips the test where dashscope isn't installed."""
    found = importlib.util.find_spec("dashscope")
    if found is None or not found.submodule_search_locations:
        pytest.skip("Qwen3's ranks aren't here: pip install --no-deps dashscope==2.0.2")
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from posttrain.stages.generators.tiny_tokenizer import SPLIT
    from posttrain.stages.models.templates import trl_template

    path = Path(next(iter(found.submodule_search_locations))) / "resources" / "qwen.tiktoken"
    pairs = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [tuple(map(text, _halves(ranks, token))) for token in sorted(ranks, key=ranks.__getitem__) if token[1:]]
    tokenizer = Tokenizer(models.BPE(vocab={text(t): rank for t, rank in ranks.items()}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, special=i < _SPECIAL, normalized=False) for i, t in enumerate(ADDED)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = trl_template("qwen3")
    return fast


def _halves(ranks: dict[bytes, int], token: bytes) -> list[bytes]:
    """The two tokens that make this one: what is left before the last merge of its bytes."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
