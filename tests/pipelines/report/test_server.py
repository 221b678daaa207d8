"""The served page: made once for all who ask at once, never stale on a disk, and 503 where it can't be made."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from posttrain.pipelines.report import server as report_server
from posttrain.pipelines.report.server import ReportServer

from ..clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(report_server, "time", made)
    return made


@pytest.fixture
def server(runner: Any, clock: Clock) -> Iterator[ReportServer]:
    runner.take_finished()
    with ReportServer(runner.run_dir, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        yield serving
        serving.shutdown()


def ask(server: ReportServer, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, "/", headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


def test_a_page_is_kept_for_as_long_as_making_it_took(
    server: ReportServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def render(results: Any) -> str:
        clock.now += 3.0
        made.append("")
        return f"page {len(made)}"

    monkeypatch.setattr(report_server, "render", render)
    assert ask(server)[1] == b"page 1"
    clock.now += 2.9
    assert ask(server)[1] == b"page 1"
    clock.now += 0.2
    assert ask(server)[1] == b"page 2"


def test_readers_who_ask_at_once_cost_one_page(
    server: ReportServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    second = threading.Event()

    def render(results: Any) -> str:
        made.append(1)
        if len(made) > 1:
            second.set()
        second.wait(0.5)  # time enough for others to begin
        clock.now += 60.0
        return "page"

    monkeypatch.setattr(report_server, "render", render)
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: server.page()[0], range(8)))
    assert (set(pages), len(made)) == ({b"page"}, 1)


def test_no_browser_keeps_a_page(server: ReportServer) -> None:
    assert ask(server)[2]["Cache-Control"] == "no-store"


def test_head_says_what_get_would_without_the_page(server: ReportServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0].split()[1], body) == (b"200", b"")
    assert f"Content-Length: {len(ask(server)[1])}".encode() in head


@pytest.mark.parametrize("host", ["LOCALHOST", "LocalHost:8642"])
def test_a_host_is_the_same_in_capitals(server: ReportServer, host: str) -> None:
    assert ask(server, Host=host)[0] == 200


@pytest.mark.parametrize("error", [KeyError("rows"), TypeError("no"), ValueError("bad"), OSError("gone")])
def test_a_page_that_cannot_be_made_is_503_with_the_reason(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def render(results: Any) -> str:
        raise error

    monkeypatch.setattr(report_server, "render", render)
    code, body, _ = ask(server)
    assert code == 503
    assert str(error.args[0]) in body.decode()
