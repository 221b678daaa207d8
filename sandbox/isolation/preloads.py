"""Libraries that rooms may have besides the standard one, by choice: loaded once, before anything is locked in.

Only names of this list: what is loaded here runs in the zygote, and later rooms inherit it. Such a library must not
start threads when it is imported (a fork would leave them behind in the middle of their work), so its own are switched
off first. Its folder can be read in rooms of tiers A and B; in C, what isn't loaded here can't be imported later.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from posttrain.sandbox.isolation.confinement import ConfinementError

ALLOWED: dict[str, tuple[str, ...]] = {
    "numpy": ("numpy", "numpy.linalg", "numpy.random", "numpy.fft", "numpy.ma", "numpy.polynomial", "numpy.testing"),
}
"""Library: the modules that are loaded."""
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")


class PreloadError(Exception):
    """A library that was asked for isn't allowed, or isn't here."""


def locate(names: Sequence[str]) -> tuple[str, ...]:
    """NAME=FOLDER of each library, for `load` in another process. Imports none of them. Raises PreloadError."""
    found = []
    for name in names:
        if name not in ALLOWED:
            raise PreloadError(f"preload {name!r}: only {', '.join(ALLOWED)} can be preloaded")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise PreloadError(f"preload {name!r}: it isn't installed for {sys.executable}")
        found.append(f"{name}={Path(spec.origin).resolve().parents[1]}")
    return tuple(found)


def load(located: Sequence[str]) -> list[str]:
    """Imports the libraries; returns the folders that rooms must be able to read. Raises ConfinementError."""
    folders = []
    os.environ.update(_ONE_THREAD)
    for name, _, parent in (text.partition("=") for text in located):
        sys.path.insert(0, parent)
        try:
            for module in ALLOWED[name]:
                importlib.import_module(module)
        except ImportError as error:
            raise ConfinementError(f"preload {name}: {error}") from error
        finally:
            sys.path.remove(parent)  # nothing else of that folder is for rooms
        folders += [str(Path(parent, part)) for part in (name, f"{name}.libs")]
    if located and len(os.listdir("/proc/self/task")) != 1:
        raise ConfinementError("a preloaded library has started threads")
    return folders
