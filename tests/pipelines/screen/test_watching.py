"""A run seen from another process: `status` while it runs and after it was killed, and the served report."""

from __future__ import annotations

import fcntl
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from posttrain.errors import InputError
from posttrain.pipelines.records.ledger import LIVE, Ledger
from posttrain.pipelines.records.logs import read_live
from posttrain.pipelines.records.results import read_results, status_json
from posttrain.pipelines.report import render
from posttrain.pipelines.report.server import ReportServer
from posttrain.pipelines.screen.stage_view import StageView
from posttrain.pipelines.screen.terminal import make_console

Status = Callable[[], dict[str, Any]]
BOARD_RUN = Path(__file__).parents[1] / "board_run.py"


def wait_for(what: Callable[[], Any]) -> Any:
    """The first true value of `what`; what never comes fails."""
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.fixture
def status(runner: Any, posttrain: Any) -> Status:
    """As another shell asks."""

    def ask() -> dict[str, Any]:
        done = posttrain("status", "run", "--json", cwd=runner.folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["stages"]

    return ask


@pytest.fixture
def halfway(runner: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, after three of the six steps of `rl`; the file `go` lets it go on."""
    command = [sys.executable, str(BOARD_RUN), "r.yaml", "run"]
    process = subprocess.Popen(command, cwd=runner.folder, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(runner.run_dir.glob("rl/metrics.jsonl"))) and _lines(runner) == 3)
        yield process
    finally:
        process.kill()
        process.communicate()


def _lines(runner: Any) -> int:
    return (runner.run_dir / "rl" / "metrics.jsonl").read_text().count("\n")


# ---------------------------------------------------------------- status


def test_another_process_sees_what_runs_and_how_far_it_is(
    runner: Any, halfway: subprocess.Popen[str], status: Status
) -> None:
    stages = status()
    states = {name: stage["state"] for name, stage in stages.items()}
    assert states == dict.fromkeys(("queries", "chat", "cold", "eval-cold"), "done") | {
        "rl": "running", "fusion": "pending", "eval-fusion": "pending",
    }  # fmt: skip
    progress = stages["rl"]["progress"]
    assert (progress["total"], progress["unit"]) == (6, "step")
    assert 0 <= progress["done"] <= 3  # it is told at most once a second
    assert stages["rl"]["metrics"]["reward"] == 0.731
    assert [name for name, stage in stages.items() if "progress" in stage] == ["rl"]


def test_people_see_step_and_time_too(runner: Any, posttrain: Any, halfway: subprocess.Popen[str]) -> None:
    out = posttrain("status", "run", cwd=runner.folder).stdout
    (line,) = [line for line in out.splitlines() if line.startswith("rl ")]
    assert re.search(r"running: step \d/6", line)
    assert "reward 0.731" in line


def test_a_finished_run_has_no_progress_and_leaves_no_live_file(
    runner: Any, halfway: subprocess.Popen[str], status: Status
) -> None:
    (runner.folder / "go").touch()
    assert halfway.wait(60) == 0
    stages = status()
    assert {stage["state"] for stage in stages.values()} == {"done"}
    assert not [stage for stage in stages.values() if "progress" in stage]
    assert list(runner.run_dir.rglob(LIVE)) == []


def test_a_killed_run_is_failed_and_what_it_said_last_is_no_progress(
    runner: Any, halfway: subprocess.Popen[str], status: Status
) -> None:
    halfway.kill()
    halfway.wait()
    assert (runner.run_dir / "rl" / LIVE).exists()  # stale
    rl = status()["rl"]
    assert (rl["state"], "progress" in rl) == ("failed", False)
    assert read_results(runner.run_dir).states["rl"]["why"] == "it was killed"
    assert "is running" not in render(read_results(runner.run_dir))


def test_a_run_that_is_told_to_stop_is_pending(runner: Any, halfway: subprocess.Popen[str], status: Status) -> None:
    halfway.send_signal(signal.SIGTERM)
    assert halfway.wait(60) == 143
    rl = status()["rl"]
    assert (rl["state"], "progress" in rl) == ("pending", False)


def test_a_killed_stage_does_not_run_again_because_another_command_holds_the_folder(
    runner: Any, halfway: subprocess.Popen[str], status: Status
) -> None:
    halfway.kill()
    halfway.wait()
    with Ledger(runner.run_dir).lock():
        rl = status()["rl"]
    assert (rl["state"], "progress" in rl) == ("failed", False)


def test_a_stage_that_starts_over_forgets_where_it_stood(tmp_path: Path) -> None:
    (tmp_path / LIVE).write_text(json.dumps({"done": 3, "total": 6}))
    with StageView(make_console(), "rl", str, folder=tmp_path):
        assert read_live(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_torn_live_file_is_no_progress(runner: Any, text: str) -> None:
    seen: list[Any] = []

    def look(context: Any) -> None:
        (context.dir / LIVE).write_text(text)
        seen.append(status_json(read_results(runner.run_dir))["stages"][context.name])

    runner.during = look
    runner.run(until="queries")
    assert [(stage["state"], "progress" in stage) for stage in seen] == [("running", False)]


def test_a_look_at_the_run_keeps_no_command_out(runner: Any) -> None:
    runner.run_dir.mkdir()
    handle = (runner.run_dir / ".lock").open("a")
    fcntl.flock(handle, fcntl.LOCK_SH)  # as `status` does, for a moment
    threading.Timer(0.2, handle.close).start()
    assert runner.run(until="queries") == 0


def test_two_commands_still_keep_each_other_out(runner: Any, halfway: subprocess.Popen[str]) -> None:
    with pytest.raises(InputError, match="another command is writing to this run folder"):
        runner.run()


# ---------------------------------------------------------------- report --serve


@pytest.fixture
def server(runner: Any) -> Iterator[ReportServer]:
    runner.take_finished()
    with ReportServer(runner.run_dir, 0) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True).start()
        yield serving
        serving.shutdown()


def ask(port: int, path: str = "/", host: str | None = "127.0.0.1", method: str = "GET") -> tuple[int, str, str | None]:
    """Status, body and Refresh of one request, sent as it is: no client mends the path or the host."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        named = f"Host: {host}\r\n" if host is not None else ""
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{named}Connection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read().decode(), response.getheader("Refresh")


@pytest.mark.parametrize("path", ["/", "/report.html", "/?x=1"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8642"])
def test_the_report_is_served_to_this_machine(server: ReportServer, path: str, host: str) -> None:
    code, body, _ = ask(server.server_port, path, host)
    assert code == 200
    assert "eval-fusion" in body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example:80", "0.0.0.0", "", None,
     "evil.example@127.0.0.1", "127.0.0.1 evil.example", "127.0.0.1:80:evil.example"],
)  # fmt: skip
def test_a_name_that_leads_here_from_elsewhere_gets_nothing(server: ReportServer, host: str | None) -> None:
    code, body, _ = ask(server.server_port, "/", host)
    assert code == 403
    assert "cold" not in body


@pytest.mark.parametrize(
    "path",
    ["/recipe.yaml", "/../recipe.yaml", "/report.html/../recipe.yaml", "/%2e%2e/recipe.yaml", "//etc/passwd",
     "/cold/artifact/result.txt", "/../../../../etc/passwd", "/..%2frecipe.yaml", "recipe.yaml",
     "http://127.0.0.1/recipe.yaml", "/report.html\\..\\recipe.yaml", "/.lock"],
)  # fmt: skip
def test_nothing_but_the_report_is_served(server: ReportServer, path: str) -> None:
    code, body, _ = ask(server.server_port, path)
    assert code == 404
    assert "seed" not in body
    assert "root:" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_server_only_reads(server: ReportServer, method: str) -> None:
    assert ask(server.server_port, method=method)[0] == 501


def test_a_client_that_says_nothing_keeps_no_other_waiting(server: ReportServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert ask(server.server_port)[0] == 200


def test_a_folder_that_is_gone_is_said_and_comes_back(server: ReportServer, runner: Any) -> None:
    aside = runner.folder / "aside"
    shutil.move(runner.run_dir, aside)
    code, body, _ = ask(server.server_port)
    assert (code, "no plan.json" in body) == (503, True)
    shutil.move(aside, runner.run_dir)
    assert ask(server.server_port)[0] == 200


def test_a_browser_refreshes_while_the_run_goes_on_and_sees_it_advance(
    runner: Any, halfway: subprocess.Popen[str]
) -> None:
    with ReportServer(runner.run_dir, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        _, body, refresh = ask(server.server_port)
        assert refresh is not None
        assert "<b>rl</b> is running" in body
        (runner.folder / "go").touch()
        assert halfway.wait(60) == 0
        while refresh is not None:  # a browser that stops asking has seen the end
            _, body, refresh = ask(server.server_port)
        assert "is running" not in body
        assert "<b>7 / 7</b> stages done" in body
        server.shutdown()


def test_a_page_made_while_the_run_ended_is_asked_for_once_more(
    server: ReportServer, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as held:
        held.enter_context(Ledger(runner.run_dir).lock())

        def ends_meanwhile(results: Any) -> str:
            page = render(results)
            held.close()
            return page

        monkeypatch.setattr("posttrain.pipelines.report.server.render", ends_meanwhile)
        assert ask(server.server_port)[2] is not None


def hear_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and passes that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def serving(runner: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`posttrain report run --serve` in a process of its own, and its port."""
    runner.take_finished()
    command = [sys.executable, "-m", "posttrain", "report", "run", "--serve", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=runner.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
    assert found is not None
    yield process, int(found[1])
    process.kill()
    process.communicate()


def test_it_listens_on_the_loopback_alone(serving: tuple[subprocess.Popen[str], int]) -> None:
    process, port = serving
    listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert {(c.laddr.ip, c.laddr.port) for c in listening} == {("127.0.0.1", port)}


def test_ctrl_c_ends_it_and_frees_the_port_though_a_client_hangs(serving: tuple[subprocess.Popen[str], int]) -> None:
    process, port = serving
    with socket.create_connection(("127.0.0.1", port)):
        assert ask(port)[0] == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past what the kernel keeps of closed connections
        again.bind(("127.0.0.1", port))


def test_a_browser_that_goes_away_leaves_no_traceback(serving: tuple[subprocess.Popen[str], int]) -> None:
    process, port = serving
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not closed
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert ask(port)[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""


def test_a_taken_port_is_said_with_what_to_do(runner: Any) -> None:
    runner.take_finished()
    with ReportServer(runner.run_dir, 0) as first, pytest.raises(InputError, match="can't listen on port") as caught:
        ReportServer(runner.run_dir, first.server_port)
    assert "--port" in (caught.value.fix or "")
