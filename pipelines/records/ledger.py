"""What a run folder holds, and which of it still counts: states, artifacts, the lock.

    runs/<name>/.lock plan.json ...
      <stage>/spec.json state.json metrics.jsonl rollouts/ checkpoints/ artifact/ (+ manifest.json)
      .replaced/<stage>-<key8>-<n>/         moved aside when its key changed; never deleted

An artifact becomes real by one rename: it is written under a temporary name, each file is fsynced, a manifest
with checksums is added, and only then does `artifact/` appear. Whenever a crash comes, no half is left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from posttrain.errors import HandoverError, InputError, RunError
from posttrain.folders import read_json, sync, write_json
from posttrain.pipelines.graph.keys import Hashes, StageKey

State = Literal["done", "running", "failed", "pending"]

MANIFEST = "manifest.json"
LIVE = "live.json"
"""Where a running stage stands; a killed one leaves it."""

_KILLED = "it was killed"
_LOOK = 1.0
"""Seconds that `lock` waits for others: `locked`, which `status` and a served report call, holds it for a moment."""


@dataclass(frozen=True)
class Ledger:
    """The stages of one run folder."""

    run_dir: Path

    def dir(self, stage: str) -> Path:
        return self.run_dir / stage

    def artifact(self, stage: str) -> Path:
        return self.dir(stage) / "artifact"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder alone; stages that a killed command left running are marked as failed.

        Raises InputError if another command holds it.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / ".lock").open("a") as handle:
            until = time.monotonic() + _LOOK
            while not _flock(handle, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    what = "another command is writing to this run folder"
                    raise InputError(what, where=str(self.run_dir), fix="wait for it, or pass --run-dir")
                time.sleep(0.02)
            for path in self.run_dir.glob("*/state.json"):
                if read_json(path).get("state") == "running":  # else it would run again for whoever sees the lock held
                    self.mark(path.parent.name, "failed", _KILLED, self.spent(path.parent.name))
            yield

    def locked(self) -> bool:
        """True while a command is at work in the run folder."""
        try:
            with (self.run_dir / ".lock").open() as handle:
                return not _flock(handle, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        except OSError:  # it can't even be looked at
            return True

    def recorded(self, stage: str) -> dict[str, Any]:
        """spec.json of the stage: its key and what the key was made of; empty if it never started."""
        return read_json(self.dir(stage) / "spec.json")

    def manifest(self, stage: str) -> dict[str, Any]:
        """The finished artifact's manifest; empty if there is none."""
        return read_json(self.artifact(stage) / MANIFEST)

    def state(self, stage: str) -> tuple[State, str]:
        """The stage's state, and a word on why (the error of a failed one)."""
        if self.manifest(stage):
            return "done", ""
        written = read_json(self.dir(stage) / "state.json")
        if not written:
            return "pending", ""
        state = written.get("state")
        if state not in ("running", "failed", "pending", "done"):
            return "pending", "its state.json is damaged"
        if state == "running":
            return ("running", "") if self.locked() else ("failed", _KILLED)
        return state, str(written.get("error", ""))

    def spent(self, stage: str) -> float:
        """Seconds that went into the stage, those of earlier attempts that it goes on from too."""
        folder, manifest = self.dir(stage), self.manifest(stage)
        places = [manifest] if manifest else [read_json(folder / "state.json"), read_json(folder / LIVE)]
        told = [place.get("seconds") for place in places]
        return max((float(seconds) for seconds in told if isinstance(seconds, int | float)), default=0.0)

    def damage(self, stage: str, hashes: Hashes | None = None) -> str:
        """What is wrong with the finished artifact, by its files' sizes, and with `hashes` by their checksums; empty
        if nothing is."""
        folder, manifest = self.artifact(stage), self.manifest(stage)
        if not manifest:
            return "there is no manifest"
        files = manifest.get("files")
        if not isinstance(files, dict) or not all(
            isinstance(e, dict) and {"size", "sha256"} <= {*e} for e in files.values()
        ):
            return f"its {MANIFEST} doesn't say what its files hold"
        for name, entry in files.items():
            try:
                size = (folder / name).stat().st_size
            except OSError:
                return f"{name} is missing"
            if size != entry["size"]:
                return f"{name} has {size} bytes, not {entry['size']}"
            if hashes is not None and hashes.file(folder / name) != entry["sha256"]:
                return f"{name} doesn't have the checksum of its manifest"
        return ""

    def hand_over(self, stage: str, hashes: Hashes) -> Path:
        """The finished artifact's folder, after its checksums were compared. Raises HandoverError."""
        folder = self.artifact(stage)
        if what := self.damage(stage, hashes):
            fix = f"run again with --force {stage}"
            raise HandoverError(f"the artifact of `{stage}` is damaged: {what}", where=str(folder), fix=fix)
        return folder

    def set_aside(self, stage: str) -> Path | None:
        """Move the stage's folder to .replaced/; None if there is none."""
        folder = self.dir(stage)
        if not folder.exists():
            return None
        replaced = self.run_dir / ".replaced"
        replaced.mkdir(exist_ok=True)
        stem = f"{stage}-{self.recorded(stage).get('key', 'unknown')[:8]}"
        target = next(path for n in range(1, 1 << 30) if not (path := replaced / f"{stem}-{n}").exists())
        folder.rename(target)
        sync(self.run_dir)
        return target

    def begin(self, stage: str, key: StageKey, extra: Mapping[str, Any], spent: float = 0.0) -> Path:
        """Mark the stage as running and return an empty temporary folder for its artifact.

        `spent` are the seconds of earlier attempts that it goes on from.
        """
        folder = self.dir(stage)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("artifact.tmp-*"):  # half an artifact of a command that was killed
            shutil.rmtree(left)
        write_json(folder / "spec.json", {"key": key.key, **key.payload, **extra})
        self.mark(stage, "running", seconds=spent)
        return Path(tempfile.mkdtemp(prefix="artifact.tmp-", dir=folder))

    def mark(self, stage: str, state: State, error: str = "", seconds: float = 0.0) -> None:
        """Record the state of a stage that isn't done, and the seconds that went into it so far."""
        told = {"state": state, "error": error, "seconds": round(seconds, 3), "pid": os.getpid()}
        write_json(self.dir(stage) / "state.json", told)

    def finish(self, stage: str, filled: Path, key: str, about: Mapping[str, Any]) -> None:
        """Make the artifact in `filled` real. Raises RunError if it is empty or holds links."""
        hashes = Hashes()
        files: dict[str, Any] = {}
        for path in sorted(filled.rglob("*")):
            if path.is_symlink():
                raise RunError(f"{path.name} is a link; an artifact holds its own files", where=str(filled))
            if path.is_file():
                sync(path)
                entry = {"sha256": hashes.file(path), "size": path.stat().st_size}
                files[path.relative_to(filled).as_posix()] = entry
        if not files:
            raise RunError(f"`{stage}` left no files", where=str(filled))
        filled.chmod(0o755)  # mkdtemp's 0700 would lock out whoever serves the model
        write_json(filled / MANIFEST, {"stage": stage, "key": key, **about, "files": files})
        for path in (*(p for p in filled.rglob("*") if p.is_dir()), filled):
            sync(path)
        filled.rename(self.artifact(stage))
        sync(self.dir(stage))
        self.mark(stage, "done")

    def carry_forward(self, aside: Path, stage: str) -> None:
        """Give a stage whose `steps` were raised the checkpoints and metrics it had."""
        folder = self.dir(stage)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(aside / "checkpoints", folder / "checkpoints")
        if (aside / "metrics.jsonl").exists():
            shutil.copy2(aside / "metrics.jsonl", folder / "metrics.jsonl")


@contextmanager
def reading(path: Path, fix: str) -> Iterator[None]:
    """Makes an InputError that names the file of whatever its damage leads to inside."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"it is damaged: it lacks {error}", where=str(path), fix=fix) from None
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"it can't be read: {type(error).__name__}: {first}", where=str(path), fix=fix) from None


def _flock(handle: IO[str], how: int) -> bool:
    """Take the lock; False if another process has one that keeps this one out, or the file system has none."""
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
