"""Programs in other languages: they run, and what they try stays in their room."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox import languages
from posttrain.sandbox.jobs import Job, JobError, Verdict, job_from_json
from posttrain.sandbox.pool import SandboxPool
from posttrain.sandbox.supervisor import Judge


@pytest.fixture(scope="module")
def judge_a() -> Iterator[Judge]:
    """The only tier that has such rooms."""
    try:
        judge = Judge("A", languages=tuple(languages.LANGUAGES))
    except SandboxError as error:
        pytest.skip(str(error))
    with judge:
        yield judge


def run(
    judge: Judge, language: str, code: str, *pairs: tuple[str, str], timeout_s: float = 2, memory_mb: int = 256
) -> Verdict:
    """The verdict; skips where the language isn't here."""
    try:
        languages.check([language], "A")
    except languages.LanguageError as error:
        pytest.skip(str(error))
    job = Job(id="x", code=code, tests=pairs or (("", "ok"),), kind="stdio", language=language, timeout_s=timeout_s,
              memory_mb=memory_mb)  # fmt: skip
    return judge.run(job)


CPP = "#include <bits/stdc++.h>\n#include <unistd.h>\n#include <fcntl.h>\n#include <sys/socket.h>\n"
CPP += "#include <sys/stat.h>\nusing namespace std;\n"
DOUBLES = {
    "bash": ("bash", "read x\necho $((2 * x)) | cat > out.txt; cat out.txt"),
    "bash here-documents": ("bash", "read x; cat <<END\n$((2 * x))\nEND"),
    "bash pipes": ("bash", "sort | head -1 | awk '{print 2 * $1}'"),
    "bash with a last word": ("bash", "read x; echo $((2 * x)); false"),
    "node": ("node", "const x = require('fs').readFileSync('/dev/stdin', 'utf8'); console.log(2 * x)"),
    "node by descriptor": ("node", "console.log(2 * require('fs').readFileSync(0, 'utf8'))"),
    "node by lines": ("node", "require('readline').createInterface({input: process.stdin})"
                              ".on('line', l => console.log(2 * l))"),
    "node with promises": ("node", "process.stdin.on('data', async d => { await null; "
                                   "setTimeout(() => console.log(2 * d), 5) })"),
    "cpp": ("cpp", CPP + "int main() { long x; cin >> x; cout << 2 * x << endl; }"),
    "cpp with threads": ("cpp", CPP + "int main() { long x; cin >> x; thread t([&] { x *= 2; }); t.join(); "
                                      "printf(\"%ld\\n\", x); }"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBLES)
def test_honest_programs_pass(judge_a: Judge, name: str) -> None:
    verdict = run(judge_a, *DOUBLES[name], ("2\n", "4"), ("3", "6\n"))
    assert (verdict.outcome, verdict.passed) == ("pass", 2), verdict


OUTCOMES = {
    "wrong": ("bash", "echo no", "wrong"),
    "a loop": ("bash", "while :; do :; done", "timeout"),
    "a sleep": ("bash", "sleep 100", "timeout"),
    "a loop in a child": ("bash", "(while :; do :; done) & (while :; do :; done) & wait", "timeout"),
    "output": ("bash", "while :; do echo 0123456789; done", "output_limit"),
    "shell bomb": ("bash", ":(){ :|:& };:; sleep 2; echo no", "crash|timeout|wrong"),
    "processes": ("bash", "for i in $(seq 200); do sleep 50 & done; echo ok; wait", "crash|wrong"),
    "a full folder": ("bash", "dd if=/dev/zero of=big bs=1M count=200 && echo ok", "wrong"),
    "many files": ("bash", "for i in $(seq 12000); do : > f$i || exit; done; echo ok", "wrong|timeout|crash"),
    "node fails": ("node", "throw new Error()", "crash"),
    "node loops": ("node", "for (;;);", "timeout"),
    "node hoards": ("node", "const k = []; for (;;) k.push(Buffer.alloc(1 << 24, 1))", "memory|crash"),
    "node hoards objects": ("node", "const k = []; for (;;) k.push({a: k.length, b: [1]})", "memory|crash|timeout"),
    "cpp hoards": ("cpp", CPP + "int main() { vector<char*> k; for (;;) { auto p = new char[1 << 24]; "
                                "memset(p, 1, 1 << 24); k.push_back(p); } }", "memory|crash"),
    "cpp hoards by children": ("cpp", CPP + "int main() { for (int i = 0; i < 8; i++) if (!fork()) { "
                               "auto p = new char[100 << 20]; memset(p, 1, 100 << 20); sleep(50); } sleep(50); }",
                               "memory"),
    "cpp threads": ("cpp", CPP + "#include <pthread.h>\nint main() { pthread_attr_t a; pthread_attr_init(&a); "
                    "pthread_attr_setstacksize(&a, 16384); pthread_t t; for (;;) pthread_create(&t, &a, "
                    "[](void*) -> void* { pause(); return 0; }, 0); }", "crash"),
    "cpp bomb": ("cpp", CPP + "int main() { for (;;) fork(); }", "crash|timeout"),
    "cpp crashes": ("cpp", CPP + "int main() { volatile int* p = 0; *p = 1; }", "crash"),
    "cpp aborts": ("cpp", CPP + "int main() { abort(); }", "crash"),
    "cpp does not compile": ("cpp", "int main() { return x; }", "compile_error"),
    "a compiler that reads": ("cpp", '#include "/etc/shadow"\nint main() {}', "compile_error"),
    "a compiler that writes": ("cpp", "__asm__(\".incbin \\\"/etc/shadow\\\"\"); int main() {}", "compile_error"),
    "a compiler without end": ("cpp", "template <int N> struct A { typedef typename A<N + 1>::T T; "
                               "typedef typename A<N + 2>::T U; }; int main() { A<0>::T x; }", "compile_error"),
    "a compiler that hoards": ("cpp", "constexpr long f(long n) { return n; }\nint a[1L << 40] = {1};\nint main() {}",
                               "compile_error"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_limits_hold_and_nothing_survives(judge_a: Judge, name: str) -> None:
    language, code, outcomes = OUTCOMES[name]
    started = time.monotonic()
    verdict = run(judge_a, language, code, timeout_s=0.7)
    assert verdict.outcome in outcomes.split("|"), verdict
    # The wall clock of the program, that of a compiler that ends, and 10 s for a loaded host.
    assert time.monotonic() - started < 3 * 0.7 + 1 + 10 + (8 if language == "cpp" else 0)
    assert judge_a.zygote_pid is not None
    assert psutil.Process(judge_a.zygote_pid).children(recursive=True) == []
    assert run(judge_a, "bash", "echo ok").outcome == "pass"


@pytest.fixture
def visible() -> Iterator[Path]:
    """A folder of the host that no mount of the room hides, as those below /tmp are."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        yield Path(folder)


ATTACKS = {
    "shadow": "cat /etc/shadow || exit; echo ok",
    "passwd": "cat /etc/passwd || exit; echo ok",
    "the folder of a run": "cat {folder}/secret || ls {folder} || exit; echo ok",
    "write beside": "echo x > {folder}/new || exit; echo ok",
    "write to the system": "echo x > /var/new || echo x > /usr/new || echo x > /etc/new || exit; echo ok",
    "write to devices": "echo x > /dev/new || echo x > /dev/kmsg || exit; echo ok",
    "modes": "chmod 777 {folder}/secret || chmod 777 {folder} || exit; echo ok",
    "times and owners": "touch -d yesterday {folder}/secret || chown 1 {folder}/secret || exit; echo ok",
    "shared memory": "echo x > /dev/shm/new || exit; echo ok",
    "remove": "rm {folder}/secret || exit; echo ok",
    "kill": "kill -9 {pid} || kill -9 -1 || exit; echo ok",
    "see processes": "ls -d /proc/{pid} /proc/1 /proc/[0-9]* || exit; echo ok",
    "tcp": "exec 3<>/dev/tcp/127.0.0.1/{port} || exit; echo ok",
    "devices": "mknod dev b 8 0 || exit; echo ok",
    "mounts": "mount -t tmpfs none /tmp || unshare -r true || exit; echo ok",
    "priorities": "nice -n -5 true 2>&1 | grep -q . && exit; echo ok > /proc/self/oom_score_adj || exit; echo ok",
    "limits": "ulimit -v unlimited || exit; ulimit -t unlimited || exit; echo ok",
    "a python": "python3 -c 'import socket; socket.socket()' || exit; echo ok",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_host_is_out_of_reach(judge_a: Judge, visible: Path, name: str) -> None:
    secret = visible / "secret"
    secret.write_text("secret")
    before = secret.stat(), visible.stat().st_mode
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        code = ATTACKS[name].format(folder=visible, pid=os.getpid(), port=port)
        verdict = run(judge_a, "bash", f"exec 2>/dev/null\n{code}")
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert verdict.outcome in ("wrong", "crash"), verdict
    assert [p.name for p in visible.iterdir()] == ["secret"]
    assert (secret.stat(), visible.stat().st_mode) == before


CALLS = {
    "socket": "socket(AF_INET, SOCK_STREAM, 0) >= 0",
    "unix socket": "socket(AF_UNIX, SOCK_STREAM, 0) >= 0",
    "ptrace": "syscall(101, 16, getppid(), 0, 0) == 0",
    "process_vm_readv": "syscall(310, getppid(), 0, 0, 0, 0, 0) == 0",
    "namespace": "syscall(272, 0x10000000) == 0",
    "a thread in a namespace": "syscall(56, 0x10000000 | 17, 0, 0, 0, 0) >= 0",
    "clone3": "syscall(435, 0, 0) != -1 || errno != ENOSYS",
    "io_uring": "syscall(425, 1, 0) >= 0 || errno != EPERM",
    "bpf": "syscall(321, 0, 0, 0) >= 0 || errno != EPERM",
    "keys": "syscall(250, 0, -1, 0) >= 0",
    "memfd": "syscall(319, \"x\", 0) >= 0",
    "shared memory": "syscall(29, 0, 4096, 01600) >= 0",
    "the wrong table": "syscall(0x40000000 | 41, 2, 1, 0) >= 0 || errno != ENOSYS",
    "setuid files": "chmod(\"program\", 04755) == 0 && syscall(105, 1) == 0",
}  # fmt: skip


def test_forbidden_calls_are_refused(judge_a: Judge) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86-64")
    checks = "".join(f'    if ({check}) puts("{name}");\n' for name, check in CALLS.items())
    code = f'{CPP}int main() {{\n{checks}    puts("ok");\n}}'
    verdict = run(judge_a, "cpp", code)
    assert verdict.outcome == "pass", verdict


def test_no_room_finds_what_another_left(judge_a: Judge) -> None:
    verdict = run(
        judge_a,
        "bash",
        "ls -A; echo mine > left; echo x > /tmp/left2",
        ("", ".input\nmain.sh"),
        ("", ".input\nmain.sh"),
    )
    assert verdict.passed == 2, verdict


def test_no_secret_of_the_environment(judge_a: Judge) -> None:
    verdict = run(judge_a, "bash", "env | cut -d= -f1 | grep -v -e '^_$' -e SHLVL -e PWD | sort | tr '\\n' ' '",
                  ("", "HOME LANG OPENSSL_CONF PATH TMPDIR"))  # fmt: skip
    assert verdict.outcome == "pass", verdict


def test_other_tiers_have_no_such_rooms(judge_b: Judge) -> None:
    job = Job(id="x", code="echo ok", tests=(("", "ok"),), kind="stdio", language="bash")
    with Judge(judge_b.tier, languages=["bash"]) as judge:
        verdict = judge.run(job)
    assert (verdict.outcome, "tier A" in verdict.message) == ("infra_error", True)


def test_a_language_that_was_not_opted_for_is_not_run(judge_b: Judge) -> None:
    verdict = judge_b.run(Job(id="x", code="echo ok", tests=(("", "ok"),), kind="stdio", language="bash"))
    assert (verdict.outcome, "opted" in verdict.message) == ("infra_error", True)


def test_an_absent_interpreter_is_named(judge_a: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_PATH", "/nowhere")
    verdict = judge_a.run(Job(id="x", code="echo ok", tests=(("", "ok"),), kind="stdio", language="bash"))
    assert (verdict.outcome, "no bash" in verdict.message) == ("infra_error", True)


def test_a_job_line_names_its_language() -> None:
    row = {"code": "", "tests": [{"input": "", "output": ""}]}
    assert job_from_json({**row, "language": "bash"}).language == "bash"
    assert job_from_json({**row, "language": "python"}).language is None
    for wrong in ({**row, "language": "cobol"}, {"code": "", "tests": "assert f()", "language": "bash"}):
        with pytest.raises(JobError):
            job_from_json(wrong)


@pytest.mark.usefixtures("ray_session", "judge_a")
def test_actors_run_them_too() -> None:
    job = Job(id="x", code="read x; echo $((2 * x))", tests=(("2", "4"),), kind="stdio", language="bash")
    with SandboxPool(1, "A", languages=["bash"]) as pool:
        assert [v.outcome for v in pool.judge([job])] == ["pass"]
