"""Curation over processes: the same bits whoever works, nothing lost and nothing done twice when it is killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.stages.curation.query_rules import OPEN, PROOFS, open_generation, proof
from posttrain.stages.data.store import join_parts, read_rows, write_part, write_stream

from ..stand_ins import write

SCRIPT = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from posttrain.configs.schema import Cluster, Curate
from posttrain.pipelines.running.cluster import ClusterWorkers
from posttrain.stages import curate
from posttrain.stages.curation import scan_output
from posttrain.stages.curation import scan
from posttrain.stages.actors.shard_pool import Here, RayShards
from posttrain.stages.models.locations import Locations

folder, out, actors, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
scan.SHARD, scan_output.IN_MEMORY = 60, 20  # small ones, written as large ones are
flushed, flush = 0, os.fsync

def fsync(file):
    global flushed
    flushed += 1
    if flushed == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(file)

os.fsync = fsync
cluster = ClusterWorkers(Cluster(), folder, folder)
pool = (lambda: RayShards(cluster._start, actors)) if actors else Here
spec = Curate.model_validate({
    "kind": "curate", "prompts": "rows.jsonl", "validation": 5, "held_out": "eval.jsonl", "limit": 400,
    "domains": {"words": {"fruit": ["apples"]}, "most": 300},
})
done = []
progress = SimpleNamespace(start=lambda *a, **k: None, advance=lambda n, note="": done.append((note, n)))
context = SimpleNamespace(
    name="queries", spec=spec, seed=0, recipe_dir=folder, dir=folder / out, artifact_dir=folder / out / "artifact",
    inputs={}, locations=Locations(recipe_dir=folder), progress=progress, check_stop=lambda: None,
    say=lambda text: None,
    workers=SimpleNamespace(shards=pool),
)
curate.run(context)
cluster.close()
print([n for note, n in done if note == "rules"])
"""


def curated(folder: Path, out: str, actors: int = 0, kill_at: int = 0) -> tuple[int, list[int]]:
    """The exit code, and the rows of each step forward of the first pass."""
    command = [sys.executable, "-c", SCRIPT, str(folder), out, str(actors), str(kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if done.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(done.stderr)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand queries with something for every pass, some with columns that others haven't, and what is left."""
    folder, rng = tmp_path_factory.mktemp("queries"), random.Random(1)
    words = [f"{a}{b}" for a in "bdfgklmn" for b in ("ab", "et", "il", "om", "uk")]
    rows: list[dict[str, Any]] = []
    for i in range(1000):
        told = " ".join(rng.choices(words, k=rng.randint(8, 24)))
        text = f"{told} has {i} apples, how many is that?" if i % 3 else f"{told} has {i}, how many is that?"
        if i % 10 == 9:
            text = rng.choice(rows)["prompt"]
        elif i % 10 == 8:
            text = "so " + rng.choice(rows)["prompt"]
        more: dict[str, Any] = {"level": i} if i < 500 else {"level": "hard", "hints": {"n": i}}
        rows.append({"id": f"q{i % 990}", "prompt": text, "answer": "" if i % 50 == 7 else str(i), **more})
    write(folder / "rows.jsonl", rows)
    write(folder / "eval.jsonl", [{"prompt": row["prompt"]} for row in rows[20:60:4]])
    assert curated(folder, "alone") == (0, [60] * 16 + [40])
    reasons = json.loads((folder / "alone/artifact/funnel.json").read_text())["steps"]
    assert len(reasons) == 7
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("actors", [2, 3])
def test_any_number_of_workers_leaves_the_same_bits(queries: Path, actors: int) -> None:
    assert curated(queries, f"ray{actors}", actors) == (0, [60] * 16 + [40])
    assert digests(queries / f"ray{actors}/artifact") == digests(queries / "alone/artifact")


@pytest.mark.parametrize("kill_at", [4, 50])
def test_a_killed_stage_goes_on_behind_its_last_shard_and_leaves_the_same_bits(queries: Path, kill_at: int) -> None:
    out = f"killed{kill_at}"
    assert curated(queries, out, kill_at=kill_at)[0] == -signal.SIGKILL
    whole = json.loads(state.read_text())["rows"] if (state := queries / out / "scan/shards.json").exists() else []
    assert len(whole) == kill_at // 23  # the files that a shard flushes: its own, the hashes, the state
    before = [sum(whole)] if whole else []
    assert curated(queries, out) == (0, [*before, *[60] * (16 - len(whole)), 40])
    assert digests(queries / out / "artifact") == digests(queries / "alone/artifact")


@pytest.mark.slow
def test_killed_with_its_workers_it_goes_on_too(queries: Path) -> None:
    assert curated(queries, "both", actors=2, kill_at=60)[0] == -signal.SIGKILL
    code, steps = curated(queries, "both", actors=2)
    assert code == 0
    assert steps[0] == 120
    assert sum(steps) == 1000
    assert digests(queries / "both/artifact") == digests(queries / "alone/artifact")


POOL = """
import os
from pathlib import Path
from posttrain.configs.schema import Cluster
from posttrain.errors import DataError, RunError
from posttrain.pipelines.running.cluster import ClusterWorkers
from posttrain.stages.actors.shard_pool import AHEAD, RayShards

def work(n):
    if n == "die":
        os._exit(1)
    if n == "refuse":
        raise DataError("malformed", where="x:3", fix="mend it")
    return os.getpid(), n

taken = []
def tasks(*values):
    for value in values:
        taken.append(value)
        yield value

cluster = ClusterWorkers(Cluster(), Path(), Path())
with RayShards(cluster._start, 2) as pool:
    found = pool.map(work, tasks(*range(40)))
    assert next(found)[1] == 0
    assert len(taken) <= 2 * AHEAD + 1, taken
    found = list(found)
    assert [n for _, n in found] == list(range(1, 40))
    assert len({pid for pid, _ in found} - {os.getpid()}) == 2
    assert list(pool.map(work, [7])) == [(os.getpid(), 7)]
    for what, kind in (("refuse", DataError), ("die", RunError)):
        try:
            list(pool.map(work, [1, 2, what, 3]))
        except kind as error:
            print(type(error).__name__, error.where, error.fix)
cluster.close()
"""


@pytest.mark.slow
def test_results_come_in_order_few_tasks_wait_and_errors_come_as_they_are(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "Error" in line.split(" ")[0]] == [  # Ray says things too
        "DataError x:3 mend it",
        "RunError None was memory short? Run the same command again: it goes on",
    ]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.just(2**70), st.floats(allow_nan=False), st.text(max_size=3),
    st.just("\\ud800"), st.lists(st.integers(), max_size=2), st.just([{"role": "user", "content": "a"}]),
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1), min_size=1, max_size=12)


@settings(deadline=None)
@given(ROWS, st.integers(1, 5))
def test_rows_that_are_written_in_parts_are_those_that_are_written_at_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    rows = [{"id": i, **row} for i, row in enumerate(rows)]
    write_stream(folder, lambda: rows, "whole.parquet", batch=1)
    parts = [write_part(folder / f"{i}.parquet", rows[i : i + size]) for i in range(0, len(rows), size)]
    join_parts(folder, parts)
    assert read_rows(folder / "data.parquet") == read_rows(folder / "whole.parquet")
    assert sorted(path.name for path in folder.iterdir()) == ["data.parquet", "whole.parquet"]


WORDS = (
    "prove show that why give me a proof of formal beweise zeige, dass démontrez demuestra 证明 write compose a story "
    "make up come with poem discuss summarise role play describe your the history of explain what do you "
    "think feel opinion list some ideas several ways pros and cons in own words "
    "hello good morning thank you 写一首 is not . ? 3 \n"
).split(" ")


@given(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), st.sampled_from((str, str.upper, str.title)))
def test_looking_for_plain_words_first_misses_nothing(text: str, cased: Any) -> None:
    text = cased(text)
    for forms, rule in ((PROOFS, proof), (OPEN, open_generation)):
        assert rule(text) == any(form.pattern.search(text) is not None for form in forms)
