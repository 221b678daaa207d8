"""Libraries that rooms may have by choice."""

from collections.abc import Iterator

import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.supervisor import Judge

pytest.importorskip("numpy")
HEAD = "import numpy as np\n"


@pytest.fixture(scope="module", params=["A", "B", "C"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """A judge with numpy, of each tier that this host allows."""
    try:
        judge = Judge(request.param, preload=["numpy"])
    except SandboxError as error:
        pytest.skip(str(error))
    with judge:
        yield judge


HONEST = {
    "arrays": ("def f(n): return np.arange(n).reshape(2, -1)",
               "assert (f(4) == np.array([[0, 1], [2, 3]])).all()\nassert f(4).shape == (2, 2)\n"
               "assert f(4).tolist() == [[0, 1], [2, 3]]\nassert f(4)[1, 0] == 2"),
    "numbers": ("def f(x): return np.mean(x)",
                "assert f(np.array([1, 2])) == 1.5\nassert isinstance(f([1]), np.floating)"),
    "linear algebra": ("def f(a, b): return np.linalg.solve(a, b)",
                       "np.testing.assert_allclose(f(2 * np.eye(2), [2, 4]), [1, 2])\n"
                       "assert np.isclose(f([[4]], [2])[0], 0.5)"),
    "in place": ("def f(a): a *= 2", "a = np.array([1, 2])\nf(a)\nassert a.tolist() == [2, 4]"),
    "random": ("def f(s): return np.random.default_rng(s).integers(9, size=2)", "assert (f(1) == f(1)).all()"),
    "products": ("def f(n): return (np.ones((n, n)) @ np.ones((n, n))).sum()", "assert f(100) == 1e6"),
    "transforms": ("def f(x): return np.fft.fft(x)", "assert abs(f([1, 1])[0] - 2) < 1e-9"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_numpy_works(judge: Judge, name: str) -> None:
    code, tests = HONEST[name]
    verdict = judge.run(Job(id="x", code=HEAD + code, tests=(HEAD + tests,), memory_mb=512))
    assert verdict.outcome == "pass", verdict


LIES = {
    "always equal": "class A(np.ndarray):\n    def __eq__(s, o): return np.array([True])\n"
    "def f(x): return np.zeros(2).view(A)",
    "an object with a shape": "class A:\n    shape = (2,)\n    def __eq__(s, o): return s\n"
    "    def all(s): return True\n    def tolist(s): return [1, 2]\ndef f(x): return A()",
    "an array of objects": "class E:\n    def __eq__(s, o): return True\ndef f(x): return np.array([E(), E()])",
    "a patched numpy": "np.array_equal = lambda *a: True\nnp.ndarray = object\ndef f(x): return np.zeros(2)",
}


@pytest.mark.parametrize("name", LIES)
def test_arrays_do_not_lie(judge: Judge, name: str) -> None:
    tests = "assert f(1).shape == (2,)\nassert (f(1) == np.array([1, 2])).all()"
    verdict = judge.run(Job(id="x", code=HEAD + LIES[name], tests=(HEAD + tests,), entry=("f",)))
    assert (verdict.outcome in ("wrong", "crash"), verdict.passed < 2) == (True, True), verdict


def test_calls_take_arrays_as_lists(judge: Judge) -> None:
    code = HEAD + "def f(x): return {'a': np.array(x)}"
    job = Job(id="x", code=code, tests=(([[1, 2]], {"a": [1, 2]}),), kind="calls", entry=("f",))
    assert judge.run(job).outcome == "pass"


def test_limits_hold_with_numpy(judge: Judge) -> None:
    code = HEAD + "def f(): return np.ones(1 << 28).sum()"
    assert judge.run(Job(id="x", code=code, tests=("assert f()",), memory_mb=256)).outcome in ("memory", "wrong")
    code = HEAD + "def f():\n    while True: np.ones((500, 500)) @ np.ones((500, 500))"
    assert judge.run(Job(id="x", code=code, tests=("assert f()",), timeout_s=0.5)).outcome == "timeout"


def test_only_what_is_asked_for_is_there(judge_b: Judge) -> None:
    job = Job(id="x", code="import numpy\ndef f(): return 1", tests=("assert f() == 1",))
    assert "numpy" in judge_b.run(job).message
    with Judge(judge_b.tier, preload=["numpy"]) as judge:
        other = Job(id="x", code="import psutil\ndef f(): return 1", tests=("assert f() == 1",))
        assert "psutil" in judge.run(other).message


@pytest.mark.parametrize("name", ["requests", "os"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="only numpy"):
        Judge("B", preload=[name])


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SandboxError, match="isn't installed"):
        Judge("B", preload=["numpy"])
