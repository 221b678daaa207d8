"""Programs in other languages than Python: which, how they are run, and whether this host can.

They need interpreters and compilers of the host, processes and files, so their rooms allow more than those of Python;
tier A's namespaces make up for it. Tests are standard input and output only, compared in the supervisor.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where interpreters are looked for: in folders that the rooms can see."""
COMPILE_S, COMPILE_MB = 20.0, 2048
"""Limits of a compiler, whatever the program's are."""
MAX_BINARY = 8 << 20
"""Bytes of a compiled program: with the longest input, it must fit into a room's frame."""


class LanguageError(Exception):
    """A language that isn't known, or whose interpreter isn't here."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """How programs of one language are run.

    >>> Language(name="bash", fences=("bash", "sh"), command="bash", source="main.sh", run=("bash", "main.sh"))
    """

    name: str
    fences: tuple[str, ...]
    """Words behind the marks of a fenced block."""
    command: str
    """The interpreter, or the compiler."""
    source: str
    """Name of the file that holds the code."""
    run: tuple[str, ...]
    """The command line; the first word is looked up where it has no slash. `{memory_mb}` is filled in."""
    compile: tuple[str, ...] = ()
    """Makes the file `program` of the source; empty where nothing is compiled."""
    bounded_by_address_space: bool = True
    """Whether it runs with little address space. Where not, only its resident memory is bounded."""
    exit_code_counts: bool = True
    """Whether an exit code above 0 is a crash. In a shell it is only what the last command said."""


LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            name="bash", fences=("bash", "sh", "shell"), command="bash", source="main.sh",
            run=("bash", "--noprofile", "--norc", "main.sh"), exit_code_counts=False,
        ),
        Language(
            name="node", fences=("javascript", "js", "node", "mjs"), command="node", source="main.js",
            run=("node", "--max-old-space-size={memory_mb}", "main.js"), bounded_by_address_space=False,
        ),
        Language(
            name="cpp", fences=("cpp", "c++", "cc", "cxx"), command="g++", source="main.cpp", run=("./program",),
            compile=("g++", "-O2", "-std=c++17", "-pipe", "-o", "program", "main.cpp"),
        ),
    )
}  # fmt: skip


def locate(command: str) -> str:
    """Where a command is. Raises LanguageError if it is nowhere that rooms can see."""
    if "/" in command:
        return command
    found = shutil.which(command, path=_PATH)
    if found is None:
        raise LanguageError(f"there is no {command} in {_PATH}")
    return found


def check(names: Sequence[str], tier: str | None = None) -> None:
    """Whether these languages can be run on this host, and in `tier`, if it is known. Raises LanguageError."""
    for name in names:
        if name not in LANGUAGES:
            raise LanguageError(f"language {name!r}: only {', '.join(LANGUAGES)} are known")
        if tier not in (None, "A"):
            raise LanguageError(f"language {name!r} needs sandbox tier A, and this host allows {tier}")
        try:
            locate(LANGUAGES[name].command)
        except LanguageError as error:
            raise LanguageError(f"language {name!r}: {error}") from None
