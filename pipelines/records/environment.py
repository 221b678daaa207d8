"""What a run was made with: package versions, Python, the machine. Reads metadata, imports nothing."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "posttrain",
    "torch",
    "transformers",
    "deepspeed",
    "ray",
    "datasets",
    "trl",
    "peft",
    "accelerate",
    "math-verify",
    "reasoning-gym",
    "numpy",
    "pyarrow",
    "tokenizers",
)
"""Packages whose version may change a result."""


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; those that are missing are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_environment() -> dict[str, Any]:
    """What environment.json says. No environment variables: they may be secrets."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": package_versions(),
    }
