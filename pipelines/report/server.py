"""`posttrain report RUN --serve`: the report on the loopback, made anew while the run goes on."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, PosttrainError
from posttrain.pipelines.records.ledger import Ledger, reading
from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report import DAMAGED, render

HOST = "127.0.0.1"
REFRESH = 5
"""Seconds until a browser asks again, as long as a command is at work in the run folder."""


class ReportServer(ThreadingHTTPServer):
    """Serves one run's report; a page is kept for as long as writing one took, so that many readers cost no more."""

    daemon_threads = True

    def __init__(self, run_dir: Path, port: int) -> None:
        """Raises InputError if the folder is no run's, or the port is taken."""
        read_results(run_dir)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            what = f"can't listen on port {port}: {error.strerror}"
            raise InputError(what, where=str(run_dir), fix="give another --port; 0 takes a free one") from None
        self.run_dir = run_dir
        self._page, self._going, self._until = b"", True, 0.0
        self._alone = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away before it has the page is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def page(self) -> tuple[bytes, bool]:
        """The report of now, or of a moment ago, and whether the run went on when it was made.

        Raises InputError if it can't be made.
        """
        with self._alone:  # who waits for another's page takes it
            began = time.monotonic()
            if began >= self._until:
                # Asked first: a page of a run that has ended since must be asked for once more.
                self._going = Ledger(self.run_dir).locked()
                with reading(self.run_dir, DAMAGED):
                    self._page = render(read_results(self.run_dir)).encode()
                ended = time.monotonic()
                self._until = ended + (ended - began)
            return self._page, self._going


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        host = (self.headers["Host"] or "").rsplit(":", 1)[0].lower()
        if host not in (HOST, "localhost"):  # a foreign page that a name of its own leads here
            self.send_error(403, "only for this machine")
        elif self.path.split("?")[0] not in ("/", "/report.html"):
            self.send_error(404)
        else:
            try:
                page, going = self.server.page()
            except PosttrainError as error:  # the folder was moved away, or a file of it is damaged
                self.send_error(503, "there is no report", str(error))
                return
            self._send(page, going)

    do_HEAD = do_GET  # the same, without its body

    def _send(self, body: bytes, going: bool) -> None:
        self.send_response(200)
        headers: dict[str, Any] = {"Content-Type": "text/html; charset=utf-8", "Content-Length": len(body)}
        headers |= {"Cache-Control": "no-store"}
        if going:
            headers["Refresh"] = REFRESH
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None: ...
