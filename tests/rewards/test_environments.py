"""Environments by themselves: tools, their processes, and what is told where something goes wrong."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.configs.schema import Grpo
from posttrain.errors import InputError, RewardError
from posttrain.rewards.contract import RowError
from posttrain.rewards.environments.client import EnvironmentPool, EpisodeFailed, cut
from posttrain.rewards.environments.registry import ENVIRONMENTS, check_environment
from posttrain.rewards.environments.reward import environment
from posttrain.stages.generators.task_agents import CALCULATOR, GENERATORS

Pool = Callable[..., EnvironmentPool]

MINE = '''
import collections, itertools, os, sys, time
from posttrain.rewards.environments import Environment

class Shop(Environment):
    def __init__(self, greeting="hello"):
        self.greeting = greeting

    def reset(self, **columns):
        if columns.get("slow"):
            time.sleep(60)
        if columns.get("broken"):
            raise ValueError("no such shop")
        self.sold = columns.get("sold", 0)
        return f"{self.greeting}, {self.sold} sold"

    def sell(self, n: int) -> dict:
        """Sells things.

        Args:
            n: how many
        """
        self.sold += n
        return {"sold": self.sold}

    def lose(self) -> str:
        """Always goes wrong."""
        raise KeyError("lost")

    def sleep(self) -> str:
        """Takes for ever, and swallows what it can."""
        try:
            time.sleep(60)
        except Exception:
            pass
        return "awake"

    def hang(self) -> str:
        """Hangs in C."""
        collections.deque(itertools.repeat(0), maxlen=0)
        return "never"

    def leave(self) -> str:
        """Ends its process."""
        os._exit(3)

    def get_reward(self):
        return self.sold / 10

    def outcome(self):
        return {"sold": self.sold if self.sold < 100 else (lambda: 0)}

    def offline(self) -> str:
        """Its service is down."""
        raise ConnectionRefusedError("the shop is down")


class Plain:
    """As written for TRL's environment_factory: no base, no close, no outcome."""

    def reset(self, **kwargs):
        self.value = kwargs["start"]

    def increment(self, step: int) -> int:
        """
        Increment the counter.

        Args:
            step: Amount to add.

        Returns:
            The new value.
        """
        self.value += step
        return self.value

    def get_reward(self) -> float:
        return float(self.value)


class Imports(Environment):
    def loaded(self, name: str) -> bool:
        """Whether a module is loaded here.

        Args:
            name: its name
        """
        return name in sys.modules


class Mute(Environment):
    def _hidden(self):
        """Not a tool."""
'''


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def pool(mine: Path) -> Iterator[Pool]:
    """Pools that tests share, as the stages of a run do: their processes take a second each to start."""
    made: dict[str, EnvironmentPool] = {}

    def make(use: str = "mine.py:Shop", **fields: Any) -> EnvironmentPool:
        wanted = EnvironmentUse(use=use, **{"processes": 1, "timeout": 10.0, **fields})
        key = wanted.model_dump_json()
        if key not in made:
            made[key] = EnvironmentPool(wanted, mine)
        return made[key]

    yield make
    for one in made.values():
        one.close()


def test_an_episode_keeps_its_state_and_tells_how_it_ended(pool: Pool) -> None:
    shop = pool(params={"greeting": "hi"})
    assert shop.start("a", {"sold": 1}) == "hi, 1 sold"
    assert shop.call("a", [("sell", {"n": 2}), ("sell", {"n": 3})]) == ['{"sold": 3}', '{"sold": 6}']
    assert shop.end("a") == {"sold": 6, "environment_reward": 0.6}


def test_episodes_of_one_process_dont_share_state(pool: Pool) -> None:
    shop = pool()
    shop.start("a", {})
    shop.start("b", {})
    shop.call("a", [("sell", {"n": 5})])
    assert shop.call("b", [("sell", {"n": 1})]) == ['{"sold": 1}']


def test_the_tools_are_the_public_methods_with_their_schemas(pool: Pool) -> None:
    schemas = {tool["function"]["name"]: tool["function"] for tool in pool().tools()}
    assert set(schemas) == {"sell", "lose", "sleep", "hang", "leave", "offline"}
    assert schemas["sell"]["description"] == "Sells things."
    assert schemas["sell"]["parameters"] == {
        "type": "object",
        "properties": {"n": {"type": "integer", "description": "how many"}},
        "required": ["n"],
    }


def test_the_schemas_of_tools_load_no_torch_into_their_process(pool: Pool) -> None:
    imports = pool("mine.py:Imports")
    assert imports.tools()
    imports.start("a", {})
    assert imports.call("a", [("loaded", {"name": "transformers"}), ("loaded", {"name": "torch"})]) == ["true", "false"]


def test_a_class_written_for_trl_works_as_it_is(pool: Pool) -> None:
    counter = pool("mine.py:Plain")
    assert [tool["function"]["name"] for tool in counter.tools()] == ["increment"]
    assert counter.start("a", {"start": 4, "prompt": "?"}) == ""
    assert counter.call("a", [("increment", {"step": 3})]) == ["7"]
    assert counter.end("a") == {"environment_reward": 7.0}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("sell", {"n": "many"}), "error: sell: argument n: Input should be a valid integer"),
        (("sell", {}), "error: sell: argument n: Missing required argument"),
        (("sell", {"n": 1, "x": 2}), "error: sell: argument x: Unexpected keyword argument"),
        (("buy", {"n": 1}), "error: there is no tool 'buy'; there are hang, leave, lose, offline, sell, sleep"),
        (("reset", {}), "error: there is no tool 'reset'"),
        (("__init__", {}), "error: there is no tool '__init__'"),
        (("lose", {}), "error: lose: KeyError: 'lost'"),
    ],
)
def test_the_model_is_told_what_was_wrong_with_its_call(pool: Pool, call: Any, told: str) -> None:
    shop = pool()
    shop.start("a", {})
    (answer,) = shop.call("a", [call])
    assert answer.startswith(told)
    assert shop.call("a", [("sell", {"n": 1})]) == ['{"sold": 1}']


def test_a_tool_that_takes_too_long_is_interrupted_and_the_episode_goes_on(pool: Pool) -> None:
    shop = pool(timeout=0.3)
    shop.start("a", {})
    assert shop.call("a", [("sleep", {})]) == ["error: sleep: no answer within 0.3 s"]
    assert shop.call("a", [("sell", {"n": 1})]) == ['{"sold": 1}']


@pytest.mark.parametrize("tool", ["leave", "hang"])
def test_what_dies_or_hangs_in_c_costs_its_process_and_later_episodes_live(
    pool: Pool, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.rewards.environments.client.GRACE_S", 0.2)
    shop = pool(timeout=1.0)
    shop.start("a", {})
    shop.start("b", {})
    started = time.monotonic()
    with pytest.raises(EpisodeFailed, match=r"exit code 3|no answer within"):
        shop.call("a", [(tool, {})])
    assert time.monotonic() - started < 20
    with pytest.raises(EpisodeFailed, match="the fault of another"):
        shop.call("b", [("sell", {"n": 1})])
    shop.start("c", {})
    assert shop.call("c", [("sell", {"n": 1})]) == ['{"sold": 1}']


def test_a_reset_that_raises_fails_its_episode_with_the_traceback(pool: Pool) -> None:
    with pytest.raises(EpisodeFailed, match=r"(?s)mine\.py.*no such shop"):
        pool().start("a", {"broken": True})


def test_a_class_without_tools_is_refused(pool: Pool) -> None:
    with pytest.raises(RewardError, match="Mute has no tool: write a public method"):
        pool("mine.py:Mute").tools()


def test_a_class_that_cant_be_loaded_is_refused_with_the_traceback(pool: Pool, mine: Path) -> None:
    (mine / "bad.py").write_text("import nowhere_at_all\nclass Bad: pass\n")
    with pytest.raises(RewardError, match="nowhere_at_all"):
        pool("bad.py:Bad").start("a", {})


@pytest.mark.parametrize(
    ("use", "params", "said"),
    [
        ("calculater", {}, "did you mean 'calculator'|calculator"),
        ("gone.py:Shop", {}, "no file .*gone.py"),
        ("mine.py:Stop", {}, "defines no 'Stop'"),
        ("mine.py:Shop", {"greting": "x"}, "no parameter 'greting'.*greeting"),
        ("python", {"memory": 1}, "no parameter 'memory'.*memory_mb"),
        ("no_such_package:Thing", {}, "no package 'no_such_package'"),
    ],
)
def test_what_isnt_there_is_refused_before_anything_starts(mine: Path, use: str, params: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_environment(EnvironmentUse(use=use, params=params), mine)


@pytest.mark.parametrize("use", [*ENVIRONMENTS, "mine.py:Shop", "json:loads"])
def test_what_is_there_passes(mine: Path, use: str) -> None:
    check_environment(EnvironmentUse(use=use), mine)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("12 * (34 + 5)", "468"),
        ("2**10", "1024"),
        ("2^-2 + -0.1", "0.15"),
        ("1,234 // 10 % 5", "3"),
        ("1/0", "error: calculator: ZeroDivisionError"),
        ("True + 1", "error: calculator: ValueError: can't read"),
        ("2^0.5", "error: calculator: ValueError: an exponent"),
        ("(" * 300 + ")" * 300, "error: calculator: ValueError"),
        ("1/8", "0.125"),
        ("1/3", "1/3 (about 0.333333333333)"),
        ("123456789 * 987654321", "121932631112635269"),
        ("__import__('os').getpid()", "error: calculator: ValueError: can't read"),
        ("9^9^9^9", "error: calculator: ValueError: the numbers are too large"),
    ],
)
def test_the_calculator(pool: Pool, expression: str, told: str) -> None:
    calculator = pool("calculator")
    calculator.start("a", {})
    (answer,) = calculator.call("a", [("calculator", {"expression": expression})])
    assert answer.startswith(told)


def test_the_calculators_decimals_are_exact_or_say_that_they_are_not() -> None:
    from posttrain.rewards.environments.calculator import _shown

    for top in range(-30, 30):
        for bottom in range(1, 70):
            text = _shown(Fraction(top, bottom))
            assert Fraction(text.split(" (about ")[0]) == Fraction(top, bottom)


def test_python_keeps_variables_and_tells_errors(pool: Pool) -> None:
    python = pool("python")
    python.start("a", {})
    python.start("b", {})
    ask = lambda episode, code: python.call(episode, [("python", {"code": code})])[0]  # noqa: E731
    assert ask("a", "x = 20\nprint('hi')") == "hi"
    assert ask("a", "x + 1") == "21"
    assert ask("a", "x = 2") == "(no output)"
    assert "NameError" in ask("b", "x")
    assert "PermissionError" in ask("a", "open('/etc/passwd').read()") or "Error" in ask("a", "open('/etc/passwd')")
    python.end("a")


def test_the_end_of_an_episode_ends_its_interpreter(pool: Pool) -> None:
    import psutil

    python = pool("python")
    python.start("a", {})
    before = _below(psutil.Process())
    python.call("a", [("python", {"code": "1"})])
    during = _below(psutil.Process())
    python.end("a")
    assert during > before
    deadline = time.monotonic() + 10
    while _below(psutil.Process()) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _below(psutil.Process()) <= before


def _below(process: Any) -> int:
    return len(process.children(recursive=True))


def test_search_finds_what_shares_words(pool: Pool, mine: Path) -> None:
    corpus = ["The Ondle is a river of 214 km.", "Mount Karr is 3100 m high.", "The Ondle springs at Mount Karr."]
    search = pool("search", params={"top": 2})
    search.start("a", {"corpus": corpus})
    (answer,) = search.call("a", [("search", {"query": "how high is Mount Karr"})])
    assert answer.splitlines()[0] == "[2] Mount Karr is 3100 m high."
    assert search.call("a", [("search", {"query": "zebra"})]) == ["nothing was found"]
    with pytest.raises(EpisodeFailed, match="column `corpus`"):
        search.start("b", {})


def test_search_reads_a_file(pool: Pool, mine: Path) -> None:
    (mine / "corpus.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("red apples", "green pears")))
    search = pool("search", params={"corpus": str(mine / "corpus.jsonl")})
    search.start("a", {})
    assert search.call("a", [("search", {"query": "pears"})]) == ["[2] green pears"]


def test_a_long_answer_is_cut_in_the_middle(pool: Pool) -> None:
    python = pool("python", max_characters=100)
    python.start("a", {})
    (answer,) = python.call("a", [("python", {"code": "'a' * 500 + 'z'"})])
    assert len(answer) <= 100
    assert answer.startswith("'aaa")
    assert answer.endswith("z'")
    assert " more] " in answer
    assert cut("abc", 3) == "abc"


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "guides" / "environments.md"


def test_the_document_shows_a_recipe_that_is_read_and_a_class_that_works(pool: Pool, mine: Path) -> None:
    text = DOCUMENT.read_text("utf-8")
    recipe, code = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("yaml", "python"))
    stage = Grpo.model_validate(yaml.safe_load(recipe)["agent"])
    assert [source.environment.use for source in stage.prompts if source.environment] == [
        "calculator", "search", "shop.py:Shop",
    ]  # fmt: skip
    (mine / "shop.py").write_text(code)
    shop = pool("shop.py:Shop")
    assert shop.start("a", {"stock": 3}) == "There are 3 apples."
    calls = [("sell", {"n": 5}), ("sell", {"n": 3})]
    assert shop.call("a", calls) == ["error: sell: ValueError: there aren't that many", "0 left"]
    assert shop.end("a") == {"left": 0, "environment_reward": 1.0}


def test_the_calculators_schema_is_what_transcripts_show(pool: Pool) -> None:
    assert pool("calculator").tools() == [CALCULATOR]


def test_packaged_tasks_can_be_done_with_their_tools(pool: Pool) -> None:
    rng = random.Random(3)
    calculate, look_up = (
        next(GENERATORS["task-calculate"](rng, "train")),
        next(GENERATORS["task-look-up"](rng, "train")),
    )
    calculator, search = pool("calculator"), pool("search")
    calculator.start("a", calculate)
    assert calculator.call("a", [("calculator", {"expression": calculate["expression"]})]) == [calculate["answer"]]
    search.start("a", look_up)
    trade = look_up["prompt"].split()[3]
    (person,) = search.call("a", [("search", {"query": trade})])
    name = person.split(" is ")[1].split(".")[0]
    (born,) = search.call("a", [("search", {"query": f"{name} born"})])
    assert look_up["answer"] in born.splitlines()[0]


def test_a_late_answer_doesnt_pass_for_the_next_calls(pool: Pool) -> None:
    python = pool("python", timeout=1.0)
    python.start("a", {})
    assert python.call("a", [("python", {"code": "import time; time.sleep(2); 7"})])[0].endswith("no answer within 1 s")
    time.sleep(1.5)
    assert python.call("a", [("python", {"code": "1+1"})]) == ["2"]
    assert python.call("a", [("python", {"code": "2+2"})]) == ["4"]


def test_the_calls_of_a_turn_share_one_limit(pool: Pool) -> None:
    shop = pool(timeout=0.4)
    shop.start("a", {})
    started = time.monotonic()
    assert shop.call("a", [("sleep", {})] * 5) == ["error: sleep: no answer within 0.4 s"] * 5
    assert time.monotonic() - started < 5


def test_text_that_no_tokenizer_takes_is_mended(pool: Pool) -> None:
    python = pool("python")
    python.start("a", {})
    assert python.call("a", [("python", {"code": "print('a' + chr(0xd800))"})]) == ["a?"]


@pytest.mark.parametrize("columns", [{"slow": True}, {"sold": 100}])
def test_a_slow_reset_or_an_outcome_that_is_no_data_fails_its_own_episode_only(pool: Pool, columns: Any) -> None:
    shop = pool(timeout=0.5)
    shop.start("b", {})

    def play() -> None:
        shop.start("a", columns)
        shop.end("a")

    with pytest.raises(EpisodeFailed, match=r"reset: no answer within|outcome must return plain data"):
        play()
    assert shop.call("b", [("sell", {"n": 1})]) == ['{"sold": 1}']


def test_a_service_that_is_down_is_no_fault_of_the_model(pool: Pool) -> None:
    shop = pool()
    shop.start("a", {})
    with pytest.raises(EpisodeFailed, match="the shop is down"):
        shop.call("a", [("offline", {})])


def test_a_reward_that_is_no_number_is_no_score() -> None:
    values = environment([()] * 3, [""] * 3, environment_reward=[float("nan"), float("inf"), 0.5])
    assert [isinstance(v, RowError) for v in values] == [True, True, False]
