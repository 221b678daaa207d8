"""Rows a second and peak memory of `curate` without models: rules, duplicates, decontamination.

    python benchmarks/curate.py [ROWS ...]         10000 100000 1000000 if none are given

Rows are made up: word problems of 20 to 60 words, a tenth exact duplicates, a twentieth near duplicates, one in a
hundred near an item of an evaluation set of 1000, some unverifiable. Each size runs in a process of its own, whose peak
memory the system reports. What must be found is known: the recall of each kind of drop is printed with it.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def main() -> None:
    """Print a line a size."""
    sizes = [int(value) for value in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
    print("rows | seconds | rows a second | peak MiB | on disk MiB | kept | found of what was planted")
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="curate-"))
        rng = random.Random(3)
        held_out = [problem(rng) for _ in range(HELD_OUT)]
        with (folder / "eval.jsonl").open("w") as file:
            file.writelines(json.dumps({"prompt": text}) + "\n" for text in held_out)
        planted: dict[str, int] = {}
        with (folder / "rows.jsonl").open("w") as file:
            for row in rows(size, held_out):
                planted[row["expected"]] = planted.get(row["expected"], 0) + 1
                file.write(json.dumps(row) + "\n")
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(folder)], check=True, capture_output=True, text=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        found = ", ".join(f"{name} {result['found'].get(name, 0) / n:.1%}" for name, n in planted.items() if name)
        print(
            f"{size} | {result['seconds']:.1f} | {size / result['seconds']:.0f} | {result['mib']:.0f} | "
            f"{result['disk']:.0f} | {result['kept']:.0f} | {found}; wrongly dropped {result['found'].get('', 0)}",
            flush=True,
        )
        shutil.rmtree(folder)


def one(folder: Path) -> None:
    """Curate the rows of `folder` and print what it took."""
    from posttrain.configs.schema import Curate
    from posttrain.stages import curate
    from posttrain.stages.data.store import iter_rows

    spec = Curate.model_validate({"kind": "curate", "prompts": "rows.jsonl", "held_out": "eval.jsonl"})
    most = 0.0

    def size_now(*_: Any, **__: Any) -> None:
        nonlocal most
        files = (folder / "queries").rglob("*")
        most = max(most, sum(path.stat().st_size for path in files if path.is_file()) / 2**20)

    progress = SimpleNamespace(start=size_now, advance=size_now)
    context: Any = SimpleNamespace(
        name="queries", spec=spec, seed=0, recipe_dir=folder, dir=folder / "queries", artifact_dir=folder / "out",
        inputs={}, base=None, progress=progress, check_stop=size_now, say=lambda text: None,
    )  # fmt: skip
    started = time.perf_counter()
    result = curate.run(context)
    seconds = time.perf_counter() - started
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found: dict[str, int] = {}
    expected = {row["id"]: row["reason"] for row in iter_rows(folder / "out/dropped.parquet")}
    with (folder / "rows.jsonl").open() as file:
        for line in file:
            row = json.loads(line)
            reason = expected.get(row["id"])
            if reason is not None and (reason == row["expected"] or not row["expected"]):
                found[row["expected"]] = found.get(row["expected"], 0) + 1
    print(json.dumps({"seconds": seconds, "mib": mib, "disk": most, "kept": result.metrics["kept"], "found": found}))


if __name__ == "__main__":
    one(Path(sys.argv[2])) if sys.argv[1:2] == ["--one"] else main()
