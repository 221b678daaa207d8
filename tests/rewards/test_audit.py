"""Nothing that a completion says acts on the process that scores it, on the host, or on the next verdict."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.configs.schema import FilterUse, RewardUse
from posttrain.rewards.base import BUILTINS
from posttrain.rewards.environments.client import EnvironmentPool
from posttrain.rewards.mixture import rooms
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.models.judge import grade_of
from posttrain.rewards.rules.tools import read_calls
from posttrain.stages.curation.decontamination import HeldOut
from posttrain.stages.filters import FILTERS, bound
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

from .payloads import CANARY, EXPRESSIONS, LARGE, PAYLOADS, SECRET, SECRET_NAME, short_ones, wrapped

PLAIN = [n for n, r in BUILTINS.items() if r.kind == "rule" and r.needs in ("nothing", "math") and n != "environment"]
FRESH = [n for n, r in BUILTINS.items() if r.needs == "worker"]
SUSPECT = ("compile", "exec", "ctypes.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
           "socket.connect", "socket.bind", "socket.getaddrinfo", "os.remove", "os.rename", "os.mkdir", "os.chmod",
           "os.kill", "shutil.", "pickle.find_class", "webbrowser.", "urllib.")  # fmt: skip
EVALUATING = ("n_queens", "binary_matrix", "spiral_matrix", "string_insertion", "puzzle24", "countdown",
              "polynomial_multiplication", "simple_integration", "intermediate_integration")  # fmt: skip
TALKATIVE = ("prime_factorization", "coin_flip", "game_of_life", "tower_of_hanoi", "number_sorting", "jugs", "codeio")
"""Data sets whose verifiers raise at unexpected text."""

_events: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _events is None:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if "confined/boot.py" in str(args) or args[:1] == (
        os.devnull,
    ):  # a host of rooms, which starts with its first call
        return
    if event.startswith(SUSPECT) or (writes and not isinstance(args[0], int)):
        _events.append(f"{event} {str(args)[:200]}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def audited() -> Iterator[None]:
    """Fails where this process compiles, runs, opens, connects or starts anything in the meantime."""
    global _events
    _events = []
    try:
        yield
        found, _events = _events, None
        assert found == []
    finally:
        _events = None


@pytest.fixture(autouse=True, scope="module")
def fresh_processes() -> Iterator[None]:
    """Processes of rewards that started with the secret in their parent's environment."""
    rooms.close()
    os.environ[SECRET_NAME] = SECRET
    yield
    del os.environ[SECRET_NAME]
    rooms.close()


@pytest.fixture(autouse=True)
def no_canary() -> Iterator[None]:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(CANARY)
    yield
    assert not Path(CANARY).exists(), "a completion wrote a file"


def pair(text: str, columns: dict[str, Any], messages: Any = ({"role": "user", "content": "?"},)) -> Any:
    prompt = Prompt(id="p", messages=tuple(messages), columns=columns)
    ids = np.zeros(3, np.int64)
    completion = Completion(
        prompt_id="p", index=0, prompt_ids=ids, token_ids=ids, text=text, sources=np.zeros(3, np.int8),
        logprobs=np.zeros(3, np.float32), versions=ids, finish_reason="stop",
    )  # fmt: skip
    return prompt, completion


def said(scores: list[Score]) -> str:
    return json.dumps([[s.value, s.status, s.detail, s.logged, s.parts] for s in scores])


def audit(scorer: Scorer, items: list[Any], control: Any, full: float) -> list[Score]:
    """Scores of `items`; the control is scored before and after each."""
    before = scorer.score([control])
    assert (before[0].value, before[0].status) == (full, "ok"), before
    with audited():
        mixed = scorer.score([item for one in items for item in (one, control)])
    assert {(s.value, s.status) for s in mixed[1::2]} == {(full, "ok")}
    assert SECRET not in said(mixed)
    return mixed[::2]


@pytest.mark.parametrize("name", PLAIN)
def test_a_built_in_only_reads(name: str, tmp_path: Path) -> None:
    case = BUILTINS[name].gold
    columns = {**case.columns, "gold": case.completion}
    control = pair(case.completion, columns, case.messages)
    texts = short_ones()
    with Scorer([RewardUse(use=name, params=dict(case.params))], recipe_dir=tmp_path, max_error_rate=1.0) as scorer:
        items = [pair(text, columns, case.messages) for text in texts]
        scores = audit(scorer, items, control, BUILTINS[name].full)
        large = scorer.score([pair("a" * LARGE, columns, case.messages)])
        counts = scorer.metrics()
    assert {(score.status, texts[i]) for i, score in enumerate(scores) if score.status != "ok"} == set()
    assert large[0].status == "ok"
    assert "verifier/refused" not in counts


@pytest.mark.parametrize("name", [name for name in FRESH if name != "reasoning_gym"])
def test_a_library_only_reads(name: str, tmp_path: Path) -> None:
    case = BUILTINS[name].gold
    columns = {**case.columns, "gold": case.completion}
    with Scorer([RewardUse(use=name, params=dict(case.params))], recipe_dir=tmp_path, max_error_rate=1.0) as scorer:
        items = [pair(text, columns) for text in PAYLOADS]
        scores = audit(scorer, items, pair(case.completion, columns), 1.0)
        assert scorer.metrics() == {}
    assert {score.status for score in scores} == {"ok"}


@pytest.mark.parametrize("task", [*EVALUATING, *TALKATIVE])
def test_a_verifier_of_reasoning_gym_runs_nothing(task: str, tmp_path: Path) -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym")
    item = json.loads(json.dumps(reasoning_gym.create_dataset(task, size=1, seed=7)[0], default=str))
    columns = {"entry": item, "task_name": task}
    control = pair(f"<answer>{item['answer']}</answer>", columns)
    texts = [f"<answer>{text}</answer>" for text in (EXPRESSIONS if task in EVALUATING[:6] else PAYLOADS[:70])]
    with Scorer([RewardUse(use="reasoning_gym")], recipe_dir=tmp_path, max_error_rate=1.0) as scorer:
        scores = audit(scorer, [pair(text, columns) for text in texts], control, 1.0)
    assert {(s.status, texts[i]) for i, s in enumerate(scores) if s.status != "ok"} == set()
    assert max(s.value or 0.0 for s in scores) <= 0.2, "a payload is paid"


def test_every_data_set_of_reasoning_gym_pays_its_gold_and_an_empty_answer_less(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    from reasoning_gym.factory import DATASETS, create_dataset

    items = []
    for name in sorted(set(DATASETS) - {"composite"}):
        item = json.loads(json.dumps(create_dataset(name, size=1, seed=3)[0], default=str))
        items.append((name, item))
    golds = [(name, item) for name, item in items if item["answer"] is not None]
    assert len(items) > 100
    assert {n for n, i in items if i["answer"] is None} == WITHOUT_GOLD
    with Scorer([RewardUse(use="reasoning_gym")], recipe_dir=tmp_path, max_error_rate=1.0) as scorer:
        full = scorer.score([pair(f"<answer>{i['answer']}</answer>", {"entry": i, "task_name": n}) for n, i in golds])
        empty = scorer.score([pair("", {"entry": i, "task_name": n}) for n, i in items])
    assert {n: s.value for (n, _), s in zip(golds, full, strict=True) if s.value != 1.0} == {}
    assert {n: s.value for (n, _), s in zip(items, empty, strict=True) if s.status != "ok" or s.value > 0.1} == {}


WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Data sets whose items come without an answer: many are right."""

FUNCTIONS = """
import json, os, re

def reads(prompts, completions, answer, **columns):
    values = []
    for completion, gold in zip(completions, answer):
        text = completion[-1]["content"]
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        number = re.search(r"-?\\d{1,9}(\\.\\d{1,9})?", text[:1000])
        values.append(float(given == gold or (number is not None and number[0] == str(gold))))
    return values

def evaluates(prompts, completions, **columns):
    values = []
    for completion in completions:
        try:
            values.append(float(bool(eval(completion[-1]["content"]))))
        except BaseException:
            values.append(0.0)
    return values

def secret(prompts, completions, **columns):
    return [float(len(os.environ.get("POSTTRAIN_AUDIT_SECRET", ""))) for _ in completions]

def reads_file(prompts, completions, path, **columns):
    try:
        return [float(len(open(path[0]).read()))] * len(completions)
    except OSError:
        return [-1.0] * len(completions)

def connects(prompts, completions, port, **columns):
    import socket
    try:
        socket.create_connection(("127.0.0.1", port[0]), 2).close()
        return [1.0] * len(completions)
    except OSError:
        return [0.0] * len(completions)
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path


@pytest.mark.parametrize("confine", [True, None])
def test_a_function_of_the_users_only_reads(functions: Path, confine: bool | None) -> None:
    items = [pair(text, {"answer": 42}) for text in short_ones()]
    with Scorer([RewardUse(use="mine.py:reads", confine=confine)], recipe_dir=functions) as scorer:
        scores = audit(scorer, items, pair("42", {"answer": 42}), 1.0)
    assert {score.status for score in scores} == {"ok"}


def test_what_a_confined_function_evaluates_has_no_effect(functions: Path) -> None:
    harmless = [text for text in EXPRESSIONS if not re.search(r"sleep|\*\*9|10\*\*|range\(10|input|breakpoint", text)]
    with Scorer([RewardUse(use="mine.py:evaluates", confine=True, timeout=5)], recipe_dir=functions) as scorer:
        scores = scorer.score([pair(text, {}) for text in harmless])
    assert SECRET not in said(scores)
    assert len(scores) == len(harmless)


@pytest.mark.parametrize(
    ("function", "columns", "needs", "without", "granted"),
    [
        ("secret", {}, {"environment": [SECRET_NAME]}, 0.0, float(len(SECRET))),
        ("reads_file", {"path": "data/notes.txt"}, {"files": ["data"]}, -1.0, 5.0),
        ("reads_file", {"path": "data/notes.txt"}, {"files": ["data/notes.txt"]}, -1.0, 5.0),
    ],
)
def test_a_confined_function_may_do_what_its_recipe_names(
    functions: Path, function: str, columns: dict[str, Any], needs: dict[str, Any], without: float, granted: float
) -> None:
    (functions / "data").mkdir()
    (functions / "data" / "notes.txt").write_text("hello")
    columns = {name: str(functions / value) for name, value in columns.items()}

    def value(**access: Any) -> float | None:
        with Scorer([RewardUse(use=f"mine.py:{function}", **access)], recipe_dir=functions) as scorer:
            return scorer.score([pair("x", columns)])[0].value

    assert value(confine=True) == without
    assert value(needs=needs) == granted
    assert value() == granted


def test_a_confined_function_connects_only_where_its_recipe_says_so(
    functions: Path, chat_server: Callable[..., Any]
) -> None:
    port = chat_server(lambda body: "x").server_address[1]
    values = []
    for access in ({"confine": True}, {"needs": {"network": True}}, {"needs": {"files": ["."]}}):
        use = RewardUse.model_validate({"use": "mine.py:connects", **access})
        with Scorer([use], recipe_dir=functions) as scorer:
            values.append(scorer.score([pair("x", {"port": port})])[0].value)
    assert values == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_only_reads(name: str) -> None:
    keep = bound(FilterUse(use=name), HeldOut())
    texts = [*PAYLOADS, *(f"<think>\n{payload}\n</think>\n\n{payload}" for payload in PAYLOADS)]
    good = "<think>\n2 + 2 is 4, since two and two make four.\n</think>\n\nIt is \\boxed{4}."
    columns = {"answer": "4"}
    prompt, completion = pair(good, columns)
    before = keep(prompt, completion, Score(value=1.0))
    with audited():
        for text in texts:
            keep(*pair(text, columns), Score(value=1.0))
            assert keep(prompt, completion, Score(value=1.0)) == before


def test_parsers_of_model_text_only_read() -> None:
    with audited():
        for text in (text for payload in PAYLOADS for text in wrapped(payload)):
            read_calls(text)
            grade_of(text, "abcd1234", 0, 10)
            split_thinking(text)


@pytest.mark.parametrize(
    ("use", "tool", "argument"),
    [("calculator", "calculator", "expression"), ("search", "search", "query"), ("python", "python", "code")],
)
def test_a_tool_acts_on_nothing_but_its_episode(tmp_path: Path, use: str, tool: str, argument: str) -> None:
    control = {"calculator": "2 + 2", "search": "cats", "python": "print(2 + 2)"}[use]
    slow = re.compile(r"sleep|\*\*|10\*\*|range\(10|prime|solve|\(lambda f")
    texts = [text for text in PAYLOADS if use != "python" or (text in EXPRESSIONS and not slow.search(text))]
    pool = EnvironmentPool(EnvironmentUse(use=use, processes=1, timeout=20), tmp_path)
    try:

        def ask(text: str, episode: str) -> str:
            pool.start(episode, {"corpus": ["cats are small", "dogs bark"]})
            said = pool.call(episode, [(tool, {argument: text})])[0]
            pool.end(episode)
            return said

        before = ask(control, "control")
        with audited():
            for number, text in enumerate(texts):
                assert SECRET not in ask(text, str(number))
                if number % 20 == 0:
                    assert ask(control, f"control {number}") == before
    finally:
        pool.close()


def test_an_answer_that_takes_over_its_verifier_changes_nothing_on_an_actor_of_ray(
    tmp_path: Path, ray_session: None
) -> None:
    ray = pytest.importorskip("ray")
    reasoning_gym = pytest.importorskip("reasoning_gym")
    item = json.loads(json.dumps(reasoning_gym.create_dataset("n_queens", size=1, seed=7)[0], default=str))
    columns = {"entry": item, "task_name": "n_queens"}
    hostile = (
        "[setattr(__import__('reasoning_gym').games.n_queens.NQueensDataset,'score_answer',lambda *a,**k:1.0),"
        f"open('{CANARY}','w')]"
    )
    items = [pair(f"<answer>{text}</answer>", columns) for text in (hostile, "zzz", item["answer"])]

    @ray.remote(num_cpus=0)
    def score() -> list[tuple[float | None, str]]:
        with Scorer([RewardUse(use="reasoning_gym")], recipe_dir=tmp_path, max_error_rate=1.0) as scorer:
            return [(score.value, score.status) for score in scorer.score(items)]

    assert ray.get(score.remote(), timeout=120) == [(0.0, "ok"), (0.0, "ok"), (1.0, "ok")]
