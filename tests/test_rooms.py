"""The house stands: links, the ladder of imports, the fences, file sizes, and no knob that nothing reads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

import posttrain
from posttrain.configs import schema

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "sandbox", "rewards", "stages", "pipelines")
"""From the bottom of the ladder to the top: a room imports itself and those before it."""

GROUND = ("types", "errors", "thinking", "flags", "folders")
KINDS = ("curate", "sample", "sft", "grpo", "distill", "evaluate")
LADDERS = {
    "configs": ("nodes", "kinds", "schema", "loading", "tasks", "load"),
    "stages": (
        "actors",
        "models",
        "context",
        "generators",
        "data",
        "learner/losses",
        "learner/rank",
        "learner",
        "rollout/engines",
        "rollout",
        "serving",
        "evaluation",
        "curation",
        "filters",
    ),
    "pipelines": (
        "graph",
        "records",
        "preflight",
        "planning",
        "screen",
        "report",
        "compare",
        "running",
        "commands",
    ),
}
"""Inside a room, from the bottom: a sub-room imports itself and those before it; kinds of stage import them all."""
STRANGERS = (("rollout", "learner"),)
"""Neither imports the other: weights and samples go through the stage."""
MOST_FILES = 14
"""In a folder of any room."""
FENCES = {
    "ray": (
        "sandbox/pool",
        "stages/actors",
        "stages/rollout",
        "stages/learner",
        "stages/serving",
        "pipelines/running/cluster",
    ),
    "deepspeed": ("stages/learner",),
    "math_verify": ("rewards/mathematics",),
    "openai": ("rewards/models/endpoint",),
    "vllm": ("stages/rollout",),
}
LONGEST_FILE = 400

FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; those of type checking blocks aside. `top_level`: at import time only."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    yield from _imports(tree.body, top_level)


def _imports(body: list[ast.stmt], top_level: bool) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, top_level)
        elif not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, name, []), top_level)
            for handler in getattr(node, "handlers", []):
                yield from _imports(handler.body, top_level)


def room_of(name: str) -> str | None:
    """The room of an import, or None if it is from elsewhere."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "posttrain" else None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_reached_through_its_link(room: str) -> None:
    link = Path(posttrain.__file__).parent / room
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == ROOT / room


def test_imports_only_go_down_the_ladder() -> None:
    up = []
    for path in FILES:
        rank = ROOMS.index(path.parts[0])
        for name in imports(path):
            room = room_of(name)
            if room in ROOMS and ROOMS.index(room) > rank:
                up.append(f"{path} imports {name}")
            assert room is None or room in (*ROOMS, *GROUND, "__version__"), f"{path} imports {name}"
    assert up == []


def test_the_ground_floor_imports_no_room() -> None:
    for module in GROUND:
        rooms = [name for name in imports(Path(f"src/posttrain/{module}.py")) if room_of(name) in ROOMS]
        assert rooms == []


def test_kinds_never_import_each_other_and_subrooms_no_kind() -> None:
    wrong = []
    for path in FILES:
        if path.parts[0] != "stages":
            continue
        own = path.stem if len(path.parts) == 2 else None
        for name in imports(path):
            parts = name.split(".")
            target = parts[2] if parts[:2] == ["posttrain", "stages"] and len(parts) > 2 else None
            if target in KINDS and target != own:
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_pipelines_ask_what_a_stage_declares_and_never_its_type() -> None:
    """`TrainingStage` types what a declaration gives, and the graph makes `Evaluate` stages of `evaluate`."""
    kinds = {model.__name__ for model in _below(schema.StageBase)}
    wrong = []
    for path in FILES:
        if path.parts[0] != "pipelines":
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "getattr"):
                asked = ast.unparse(node)
                if "spec" in asked or kinds & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}:
                    wrong.append(f"{path}: {asked}")
            elif isinstance(node, ast.Compare) and ast.unparse(node.left).endswith("spec.kind"):
                wrong.append(f"{path}: {ast.unparse(node)}")
    assert len(kinds) > len(KINDS)
    assert wrong == []


def _below(model: type) -> Iterator[type]:
    for child in model.__subclasses__():
        yield child
        yield from _below(child)


def subroom_of(parts: Sequence[str]) -> str:
    """The step of its room's ladder on which a module stands; empty for a kind of stage."""
    ladder = LADDERS[parts[0]]
    steps = ("/".join(parts[1:end]) for end in range(len(parts), 1, -1))
    return next((step for step in steps if step in ladder), "")


def steps_between_subrooms() -> Iterator[tuple[str, str, str, str]]:
    """The room, the importing sub-room, the imported one, and what to print, of each import inside a room."""
    for path in FILES:
        room = path.parts[0]
        if room not in LADDERS:
            continue
        own = subroom_of(path.with_suffix("").parts)
        for name in imports(path):
            parts = name.split(".")[1:]
            if name.startswith(f"posttrain.{room}.") and (target := subroom_of(parts)) != own:
                yield room, own, target, f"{path} imports {name}"


def test_imports_only_go_down_the_ladder_inside_a_room() -> None:
    found = list(steps_between_subrooms())
    ups = [
        text
        for room, own, target, text in found
        if own and (not target or LADDERS[room].index(target) > LADDERS[room].index(own))
    ]
    assert len(found) > 300
    assert ups == []


def test_learner_and_rollout_never_import_each_other() -> None:
    met = [
        text
        for _, own, target, text in steps_between_subrooms()
        for pair in STRANGERS
        if {own.split("/")[0], target.split("/")[0]} == {*pair}
    ]
    assert met == []


def test_every_file_of_a_room_with_a_ladder_stands_on_a_step() -> None:
    loose = {
        path.as_posix()
        for path in FILES
        if path.parts[0] in LADDERS and path.name != "__init__.py" and not subroom_of(path.with_suffix("").parts)
    }
    projects = {"configs/project/rewards.py", "configs/project/test_rewards.py"}
    assert loose == {f"stages/{kind}.py" for kind in KINDS} | projects


def test_a_folder_has_few_files() -> None:
    counts = Counter(path.parent.as_posix() for path in FILES)
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("library", FENCES)
def test_a_library_stays_behind_its_fence(library: str) -> None:
    outside = [
        f"{path} imports {name}"
        for path in FILES
        for name in imports(path)
        if name.split(".")[0] == library and not path.as_posix().startswith(FENCES[library])
    ]
    assert outside == []


def test_nothing_heavy_is_imported_with_configs_or_pipelines() -> None:
    heavy = {"torch", "transformers", "datasets", "ray", "deepspeed", "trl", "peft", "plotly"}
    found = [
        f"{path} imports {name}"
        for path in FILES
        if path.parts[0] in ("configs", "pipelines")
        for name in imports(path, top_level=True)
        if name.split(".")[0] in heavy
    ]
    assert found == []


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "starter", "--json"], ["plan", "qwen3-tiny"]])
def test_help_and_plans_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['posttrain', *{arguments!r}]\n"
        "from posttrain.pipelines.commands.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('HEAVY', *(m for m in ('torch', 'transformers', 'datasets', 'ray') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
    assert list(tmp_path.iterdir()) == []


def test_every_knob_of_the_recipe_is_read() -> None:
    """A field that no code reads is a promise that nothing keeps."""
    read: set[str] = set()
    for path in FILES:
        if path == Path("configs/schema.py"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):  # for field in ("model", "teacher"):
                read.update(str(item.value) for item in node.iter.elts if isinstance(item, ast.Constant))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "node.pop":  # what is written out before
                read.update(str(item.value) for item in node.args if isinstance(item, ast.Constant))
    models = [m for m in vars(schema).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    unread = [f"{m.__name__}.{name}" for m in models for name in m.model_fields if name not in read]
    assert len(models) > 10
    assert sorted(set(unread)) == []


def test_every_setting_of_a_recipe_has_a_description() -> None:
    models = [m for m in vars(schema).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    silent = [
        f"{m.__name__}.{name}"
        for m in models
        for name, field in m.model_fields.items()
        if not field.description and name != "kind"
    ]
    assert silent == []


SAME_NAMES = {
    "Answers": {"rewards/models/answers.py"},
    "Group": {"rewards/mathematics/latex.py"},
    "TooLarge": {"rewards/mathematics/arithmetic.py", "sandbox/codec.py"},
    "Row": {"rewards/mixture/members.py"},
    "_Capped": {"sandbox/rooms/cells.py", "sandbox/rooms/serving.py"},
}
"""Classes of rewards and sandbox that share a name with another one; to be emptied."""


def test_no_two_classes_share_a_name() -> None:
    found: dict[str, set[str]] = {}
    for path in [*FILES, *(ROOT / "src/posttrain").glob("*.py")]:
        place = (ROOT / path).relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).add(place)
    shared = {name: places - SAME_NAMES.get(name, set()) for name, places in found.items() if len(places) > 1}
    assert {name: places for name, places in shared.items() if len(places) > 1} == {}
    known = {name for name, places in SAME_NAMES.items() if places & found.get(name, set())}
    assert known == {*SAME_NAMES}, "take what no longer shares a name out of the list"


def test_files_stay_short() -> None:
    long = {
        str(path): lines
        for path in FILES
        if (lines := len((ROOT / path).read_text("utf-8").splitlines())) > LONGEST_FILE
    }
    assert long == {}, "can each be two files?"


def test_the_words_utils_and_common_name_no_file() -> None:
    assert [str(path) for path in FILES if path.stem in ("utils", "util", "common", "helpers", "misc")] == []
