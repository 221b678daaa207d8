"""Rows a second and peak memory of `curate` without models: rules, duplicates, decontamination.

    python benchmarks/curate.py [ROWS ...] [--here]     10000 100000 1000000 if none are given

Rows are made up: word problems of 20 to 60 words, a tenth exact duplicates, a twentieth near duplicates, one in a
hundred near an item of an evaluation set of 1000, some unverifiable. What must be found is known: the recall of each
kind of drop is printed with it. Each size runs in a process of its own, over Ray as in a run; with `--here` in that
one process alone.

Memory and processor time are those of the process and all its descendants, Ray's own among them, looked at four times
a second. Memory is the sum of proportional set sizes: a page that several processes map counts once, and pages of
mapped files count. What processes share (Ray's object store) is in it, and shown by itself too.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from posttrain.stages.models.locations import Locations

_STEMS = (
    "ba be bi bo bu da de di do du fa fe ga go ka ke ki la le li lo ma me mi mo na ne no pa pe po ra re ri ro sa se ta"
)
HELD_OUT = 1000


def words(rng: random.Random, n: int) -> list[str]:
    """Made-up words, of a vocabulary of some 50,000."""
    stems = _STEMS.split()
    return ["".join(rng.choice(stems) for _ in range(rng.choice((2, 3, 3)))) for _ in range(n)]


def problem(rng: random.Random) -> str:
    """A word problem that nobody has seen."""
    told = words(rng, rng.randint(18, 56))
    return f"{' '.join(told)} has {rng.randint(2, 999)} and gets {rng.randint(2, 999)} more, how many is that?"


def rows(n: int, held_out: list[str]) -> Iterator[dict[str, Any]]:
    """`n` rows with what is to become of them in the column `expected`."""
    rng = random.Random(17)
    earlier: list[str] = []
    for i in range(n):
        draw = rng.random()
        expected, text = "", problem(rng)
        if draw < 0.10 and earlier:
            expected, text = "duplicate", rng.choice(earlier)
        elif draw < 0.15 and earlier:
            told = rng.choice(earlier).split()
            told[rng.randrange(10)] = words(rng, 1)[0]
            expected, text = "near duplicate", " ".join(told)
        elif draw < 0.16:
            expected, text = "near a held-out item", f"Please solve this: {rng.choice(held_out)}"
        elif draw < 0.18:
            expected, text = "asks for a proof", f"Prove that {text[:-1]}."
        elif draw < 0.20:
            expected, text = "nothing to verify with", text
        elif len(earlier) < 20_000:
            earlier.append(text)
        answer = {} if expected == "nothing to verify with" else {"answer": str(i)}
        yield {"id": f"r{i}", "prompt": text, "expected": expected, **answer}


class Tree:
    """What a process and its descendants take, as far as it was seen."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu: dict[int, float] = {}
        self.most = self.most_shared = 0.0
        self.processes = 0

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return sum(self._cpu.values())

    def look(self) -> None:
        """Note memory and processor time."""
        total = shared = 0.0
        alive = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                times = process.cpu_times()
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            except (psutil.Error, OSError):
                continue
            self._cpu[process.pid] = times.user + times.system
            sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in rollup.splitlines()[1:]}
            total, shared, alive = total + sizes["Pss:"], shared + sizes["Pss_Shmem:"], alive + 1
        self.most, self.most_shared = max(self.most, total), max(self.most_shared, shared)
        self.processes = max(self.processes, alive)


def main() -> None:
    """Print a line a size."""
    here = "--here" in sys.argv
    sizes = [int(value) for value in sys.argv[1:] if value != "--here"] or [10_000, 100_000, 1_000_000]
    print(
        "rows | seconds | rows a second | CPU seconds | peak MiB | of it shared | processes | on disk MiB | kept | "
        "seconds a step | found of what was planted"
    )
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="curate-"))
        planted = make(folder, size)
        result, tree = measured(folder, here)
        found = ", ".join(f"{name} {result['found'].get(name, 0) / n:.1%}" for name, n in planted.items() if name)
        steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["steps"].items())
        print(
            f"{size} | {result['seconds']:.1f} | {size / result['seconds']:.0f} | {tree.cpu:.1f} | {tree.most:.0f} | "
            f"{tree.most_shared:.0f} | {tree.processes} | {result['disk']:.0f} | {result['kept']:.0f} | {steps} | "
            f"{found}; wrongly dropped {result['found'].get('', 0)}",
            flush=True,
        )
        shutil.rmtree(folder)


def make(folder: Path, size: int) -> dict[str, int]:
    """Write the rows and the evaluation set; what was planted, by kind."""
    rng = random.Random(3)
    held_out = [problem(rng) for _ in range(HELD_OUT)]
    with (folder / "eval.jsonl").open("w") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in held_out)
    planted: dict[str, int] = {}
    with (folder / "rows.jsonl").open("w") as file:
        for row in rows(size, held_out):
            planted[row["expected"]] = planted.get(row["expected"], 0) + 1
            file.write(json.dumps(row) + "\n")
    return planted


def measured(folder: Path, here: bool) -> tuple[dict[str, Any], Tree]:
    """Curate `folder` in a process of its own, and look at it."""
    command = [sys.executable, __file__, "--one", str(folder), *(["--here"] if here else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tree = Tree(process.pid)
    while not (folder / "result.json").exists() and process.poll() is None:
        tree.look()
        time.sleep(0.25)
    process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    result["found"] = recall(folder)
    return result, tree


def recall(folder: Path) -> dict[str, int]:
    """How many rows were dropped for what they were planted for, by kind; under "" those that should have stayed."""
    from posttrain.stages.data.store import iter_rows

    found: dict[str, int] = {}
    reasons = {row["id"]: row["reason"] for row in iter_rows(folder / "out/dropped.parquet")}
    with (folder / "rows.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            reason = reasons.get(row["id"])
            if reason is not None and (reason == row["expected"] or not row["expected"]):
                found[row["expected"]] = found.get(row["expected"], 0) + 1
    return found


def one(folder: Path, here: bool) -> None:
    """Curate the rows of `folder`, and leave what it took beside them."""
    from posttrain.configs.schema import Cluster, Curate
    from posttrain.pipelines.running.cluster import ClusterWorkers
    from posttrain.stages import curate
    from posttrain.stages.actors.shard_pool import Here

    spec = Curate.model_validate({"kind": "curate", "prompts": "rows.jsonl", "held_out": "eval.jsonl"})
    started = time.perf_counter()
    most, steps, since, step = 0.0, dict[str, float](), started, "rules"

    def size_now() -> None:
        nonlocal most
        files = [*(folder / "queries").rglob("*"), *(folder / "out").rglob("*")]
        most = max(most, sum(path.stat().st_size for path in files if path.is_file()) / 2**20)

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal since, step
        now = time.perf_counter()
        step = note or step
        steps[step] = steps.get(step, 0.0) + now - since
        since = now
        size_now()

    workers: Any = SimpleNamespace(shards=Here) if here else ClusterWorkers(Cluster(), folder, folder)
    progress = SimpleNamespace(start=lambda *a, **k: None, advance=advance)
    context: Any = SimpleNamespace(
        name="queries", spec=spec, seed=0, recipe_dir=folder, dir=folder / "queries", artifact_dir=folder / "out",
        inputs={}, locations=Locations(recipe_dir=folder), progress=progress, check_stop=lambda: None,
        say=lambda text: None, workers=workers,
    )  # fmt: skip
    result = curate.run(context)
    advance(0, "last files")
    seconds = time.perf_counter() - started
    if not here:
        workers.close()
    text = json.dumps({"seconds": seconds, "disk": most, "kept": result.metrics["kept"], "steps": steps})
    (folder / "result.tmp").write_text(text)
    (folder / "result.tmp").replace(folder / "result.json")


if __name__ == "__main__":
    one(Path(sys.argv[2]), "--here" in sys.argv) if sys.argv[1:2] == ["--one"] else main()
