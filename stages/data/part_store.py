"""Finished parts of a stage's work, by number: an interrupted stage goes on behind its last one.

A part is whole or isn't there. A stage whose key changed starts in a new folder, so a part always fits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from posttrain.folders import whole_file


class Parts:
    """JSON values in `folder`, by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, number: int) -> Any | None:
        """The part, None if it was never finished."""
        try:
            return json.loads(self._path(number).read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def put(self, number: int, value: Any) -> None:
        """Keep a finished part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path(number)) as temporary:
            temporary.write_text(json.dumps(value), encoding="ascii")

    def clear(self) -> None:
        """The stage is done: its parts stand in the artifact."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.json"
