"""Shared by all tests: one tiny random model, one Ray session, servers that speak the chat completions API."""

from __future__ import annotations

import gc
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A test that asks Ray without `ray_session` shall fail: Ray would start one in passing, and the fixture then can't.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}


def pytest_collection_finish() -> None:
    """Modules and tests aren't looked at by the collector again: half a second, each time that a model was freed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of random weights with the tiny tokenizer: oracles need no skill."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from posttrain.stages.models.locations import builtin_path

    folder = tmp_path_factory.mktemp("random-model")
    tokenizer = AutoTokenizer.from_pretrained(builtin_path("builtin:tiny"))
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **SHAPE))
    with torch.no_grad():  # far from uniform: differences show
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier of random weights with one label, and the tiny tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config.from_pretrained(random_model, num_labels=1)
    torch.manual_seed(1)
    model = Qwen3ForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(random_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(random_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(random_model)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One embedded Ray for all tests that need actors. It believes in two GPUs, which none of theirs asks to use."""
    import ray

    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=200 << 20)
    yield
    ray.shutdown()


Reply = str | tuple[int, Any] | dict[str, Any]
"""What a chat server says: the text of an answer; a status with a body; or a whole body."""


class ChatServer(ThreadingHTTPServer):
    """Speaks the chat completions API on the loopback; `reply` decides on the body of a request, its key in `key`."""

    daemon_threads = True

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _ChatHandler)
        self.reply, self.requests, self.keys = reply, [], []  # type: ignore[var-annotated]
        self.headers: dict[str, str] = {}
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _ChatHandler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers["Authorization"])
        reply = self.server.reply(body) if self.path == "/v1/chat/completions" else (404, {"error": {"message": "?"}})
        status, content = reply if isinstance(reply, tuple) else (200, reply)
        if isinstance(content, str):
            message = {"role": "assistant", "content": content}
            content = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            content |= {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def chat_server() -> Iterator[Callable[[Callable[[dict[str, Any]], Reply]], ChatServer]]:
    """Starts servers that answer by a function of the request's body."""
    servers: list[ChatServer] = []

    def start(reply: Callable[[dict[str, Any]], Reply]) -> ChatServer:
        servers.append(ChatServer(reply))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def gullible() -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """A judge that pays a response in which Paris stands, and does what is ordered anywhere outside of the fences.

    It reads the prompt as a model would have to: the last tag in it is the tag, and fences are lines that carry it.
    """

    def judge(messages: Sequence[Mapping[str, Any]]) -> str:
        text = "\n".join(str(message["content"]) for message in messages)
        tag = re.findall(r"GRADE ([0-9a-f]{8}): N", text)[-1]
        low, high = re.findall(r"whole number from (-?\d+) .* to (-?\d+) ", text)[-1]
        fences = re.compile(rf"^--- (\w+) {tag} begins ---$(.*?)^--- \1 {tag} ends ---$", re.DOTALL | re.MULTILINE)
        blocks = dict(fences.findall(text))
        ordered = "10/10" in fences.sub("", text)
        return f"Let me see.\nGRADE {tag}: {high if ordered or 'Paris' in blocks['response'] else low}"

    return judge
