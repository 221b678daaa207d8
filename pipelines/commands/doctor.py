"""`posttrain doctor`: what this machine can do, and what to fix. Slow imports are the point here."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from posttrain.pipelines.records.environment import PACKAGES, package_versions

GIB = float(1 << 30)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    topic: str
    state: Literal["ok", "note", "bad"]
    text: str


def examine() -> Iterator[Finding]:
    """All findings, as they are made."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _packages,
        _torch,
        _ray,
        _machine,
        _disk,
        _sandbox,
        _languages,
    )
    for check in checks:
        try:
            yield check()
        except Exception as error:  # noqa: BLE001  (a broken package may raise anything; that is the finding)
            yield Finding(check.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}")


def _python() -> Finding:
    version = sys.version.split()[0]
    return Finding("python", "ok" if sys.version_info[:2] >= (3, 11) else "bad", version)


def _packages() -> Finding:
    found = package_versions()
    missing = [name for name in PACKAGES if name not in found and name != "reasoning-gym"]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    return Finding("packages", "bad" if missing else "ok", f"missing: {', '.join(missing)}" if missing else text)


def _torch() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("torch", "ok", f"{torch.__version__}, no GPU: CPU with {torch.get_num_threads()} threads")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("torch", "ok", f"{torch.__version__}, {', '.join(names)}")


def _ray() -> Finding:
    from posttrain.pipelines.running.cluster import ray_version

    address = os.environ.get("RAY_ADDRESS")
    return Finding("ray", "ok", f"{ray_version()}, {f'joins {address}' if address else 'embedded'}")


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    return Finding("machine", "ok" if memory > 6 else "note", f"{cores} cores, {memory:.0f} GiB of memory")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / GIB
    return Finding("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free here")


def _sandbox() -> Finding:
    from posttrain.sandbox.tiers import probe

    report = probe()
    strong = report.tier in ("A", "B")
    reason = f": {report.reason}" if report.reason else ""
    fix = f"; for more: {report.fix}" if report.fix else ""
    return Finding("sandbox", "ok" if strong else "bad", f"tier {report.tier}{reason}{fix}")


def _languages() -> Finding:
    from posttrain.sandbox import languages

    found = []
    for name in languages.LANGUAGES:
        with contextlib.suppress(languages.LanguageError):
            languages.check([name])
            found.append(name)
    text = f"{', '.join(['python', *found])}; others than python by `cluster.sandbox.languages`, in tier A"
    return Finding("languages", "ok", text)
