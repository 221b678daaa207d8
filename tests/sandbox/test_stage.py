"""A GRPO stage whose policy emits hostile programs: nothing is rewarded, nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "sandbox_stage.py"


@pytest.mark.slow
def test_a_hostile_policy_trains_in_vain_and_leaves_nothing_behind() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--steps", "3"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rewarded: none; left behind: none" in done.stdout
    assert "'sandbox/forged': " in done.stdout
    assert "'sandbox/denied': " in done.stdout
