"""The embedded Ray: on the loopback, quiet, gone with the run, and never in the way of a signal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.configs.schema import Cluster
from posttrain.pipelines.running.cluster import ClusterWorkers


def test_nothing_starts_before_it_is_asked_for(tmp_path: Path) -> None:
    workers = ClusterWorkers(Cluster(), tmp_path, tmp_path)
    workers.close()
    assert not workers.started


SCRIPT = """
import pathlib, signal, subprocess
from posttrain.configs.schema import Cluster
from posttrain.pipelines.running.cluster import ClusterWorkers

def mine(*_): ...
signal.signal(signal.SIGTERM, mine)
here = pathlib.Path()
workers = ClusterWorkers(Cluster(), here, here)
import ray
workers._start()
scratch = pathlib.Path(workers._scratch)
assert scratch.is_dir()
assert signal.getsignal(signal.SIGTERM) is mine
assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
workers.close()
assert not ray.is_initialized()
assert not scratch.exists()
"""


@pytest.mark.slow
def test_ray_stays_on_the_loopback_leaves_signals_alone_and_takes_its_files_with_it(tmp_path: Path) -> None:
    # A process of its own: Ray reads where it may listen when it is imported.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
