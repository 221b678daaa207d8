"""Whether a wheel holds every module of the five rooms, the package data, and nothing from beside the package."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "sandbox", "rewards", "stages", "pipelines")
DATA = ("recipes/*.yaml", "*.yaml", "models/**/*", "project/*", "project/data/*")


def expected() -> set[str]:
    """Names that the wheel must hold."""
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    data = [path for pattern in DATA for path in (ROOT / "configs").glob(pattern) if path.is_file()]
    data += list((ROOT / "pipelines/report/page").iterdir())
    ground = list((ROOT / "src" / "posttrain").glob("*.py"))
    inside = {f"posttrain/{path.relative_to(ROOT).as_posix()}" for path in (*modules, *data)}
    return inside | {f"posttrain/{path.name}" for path in ground} | {"posttrain/py.typed"}


def main(wheel: str) -> int:
    """Compare and report; the exit code."""
    with ZipFile(wheel) as archive:
        held = set(archive.namelist())
    missing = sorted(expected() - held)
    foreign = sorted(name for name in held if not name.startswith(("posttrain/", "posttrain-")))
    for name in missing:
        print(f"missing: {name}")
    for name in foreign:
        print(f"foreign: {name}")
    print(f"{Path(wheel).name}: {len(held)} files, {len(missing)} missing, {len(foreign)} foreign")
    return 1 if missing or foreign else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
