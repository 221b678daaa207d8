"""What the tables share: the machine's name, models to measure with, a run's actors."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from posttrain.configs.schema import Cluster
from posttrain.pipelines.running.cluster import ClusterWorkers

QWEN3_06B: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True, "vocab_size": 151936,
    "max_position_embeddings": 4096,
}  # fmt: skip
QWEN3_17B = {**QWEN3_06B, "hidden_size": 2048, "intermediate_size": 6144}
TINY: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True, "vocab_size": 4096,
    "max_position_embeddings": 2048,
}  # fmt: skip
SHAPES = {"0.6b": QWEN3_06B, "1.7b": QWEN3_17B, "tiny": TINY}


def describe() -> str:
    """One line: the GPUs, and the versions of what is measured."""
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
    versions = [f"{name} {_version(name)}" for name in ("torch", "vllm", "transformers", "ray", "deepspeed")]
    return f"{len(names)} x {names[0]}; {', '.join(versions)}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def apart(table: str, flag: str, asked: dict[str, Any], limit: int) -> Any:
    """What `benchmarks/gpu TABLE FLAG ASKED` prints last, as JSON, from a process of its own, which has the GPU alone.

    What it had printed by then, if it wasn't done in `limit` seconds; text if that is nothing, or it failed.
    """
    command = [sys.executable, str(Path(__file__).parent), table, flag, json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        late = error.stdout or b""
        found = _last_json(late if isinstance(late, str) else late.decode(errors="replace"))
        return f"not done in {limit} s" if found is None else found
    if done.returncode:
        return f"failed: {done.stderr[-1500:]}"
    found = _last_json(done.stdout)
    return f"said nothing: {done.stdout[-1500:]}" if found is None else found


def _last_json(said: str) -> Any:
    for line in reversed(said.splitlines()):
        if line[:1] in ("[", "{"):
            with suppress(ValueError):
                return json.loads(line)
    return None


@contextmanager
def actors(cluster: Cluster) -> Iterator[ClusterWorkers]:
    """A run's actors, ended with the block."""
    with tempfile.TemporaryDirectory() as folder:
        workers = ClusterWorkers(cluster, Path(folder), Path(folder))
        try:
            yield workers
        finally:
            workers.close()


@contextmanager
def random_checkpoint(shape: str) -> Iterator[str]:
    """A folder with a model of random weights in bfloat16, and the tiny tokenizer."""
    import torch
    from transformers import AutoTokenizer

    from posttrain.stages.models.locations import builtin_path
    from posttrain.stages.models.model_files import ModelSpec, export_model, load_model

    tiny = str(builtin_path("builtin:tiny"))
    model = load_model(ModelSpec(path=tiny, scratch=SHAPES[shape]), torch.bfloat16, "sdpa")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        export_model(model.config, dict(model.named_parameters()), tokenizer, Path(folder), torch.bfloat16)
        del model
        yield folder
