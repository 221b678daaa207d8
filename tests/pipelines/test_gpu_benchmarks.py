"""The GPU tables' own commands, at a size that a processor can do: what they print there means nothing, that they print
it does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("command", "row"),
    [
        (
            "learner --shapes tiny --row 256 --micro 2 --steps 3 --sides posttrain:ranks=2,zero=3,gpus=0,dtype=float32",
            r"\| tiny \| posttrain:\S+ \| \d+ \| 0.0% \| \d+ \|",
        ),
        (
            "step --cpu --shape tiny --prompts 4 --group 2 --max-tokens 16 --steps 2 --trl-batches 0",
            r"\| posttrain, 1 steps \| \d+\.\d\d \| \d+ \|",
        ),
        ("weights --gpus 0 --engine transformers --shape tiny --rounds 1", r"object store +0\.\d+ "),
    ],
)
def test_it_prints_its_row(command: str, row: str) -> None:
    done = subprocess.run(
        [sys.executable, str(TABLES), *command.split()], capture_output=True, text=True, timeout=280, check=False
    )
    assert re.search(row, done.stdout), done.stdout + done.stderr[-2000:]
