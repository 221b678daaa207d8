"""Makes the tiny models' tokenizer: a byte-level BPE split and named as Qwen3's, at a hundredth of its size.

Digits stand alone and the specials carry Qwen3's names, so everything that holds for Qwen3's tokenizer (a think
mark is one token, "\\n\\n" too) holds for this one.
"""

from __future__ import annotations

import random
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.stages.generators.builtin import chat, corpus
from posttrain.stages.models.templates import trl_template
from posttrain.thinking import EARLY_STOP

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Added but not special, as in Qwen3: they survive skip_special_tokens."""

# Qwen2's split: contractions, words with one leading mark, single digits, punctuation runs, line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer(seed: int, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the tiny corpus and the words of the template; `vocab_size` counts all ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    extra = len(SPECIAL) + len(MARKS)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - extra, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rng = random.Random(seed)
    # Without conversations: their marks are tokens already.
    documents = [row["text"] for row in islice(corpus(rng, "train"), 5000) if "<|" not in row["text"]]
    documents += [f"{row['prompt']} {row['response']}" for row in islice(chat(rng, "train"), 4000)]
    documents += [EARLY_STOP, "user\nassistant\nsystem\n", " /think", " /no_think", "\\boxed{", "}\n\n", "\n\n"] * 400
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    fast.chat_template = trl_template("qwen3")
    return fast
