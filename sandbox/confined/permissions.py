"""What a confined function may do besides computing and reading installed libraries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Everything that isn't named here is refused by the kernel.

    >>> Permissions(network=True, environment=("MY_TOKEN",), files=("/data/prices.csv",))
    """

    environment: tuple[str, ...] = ()
    """Names of environment variables that it is passed."""
    network: bool = False
    """Whether it may open connections. It can't listen."""
    files: tuple[str, ...] = ()
    """Absolute paths of files and folders that it may read."""

    def describe(self) -> str:
        """The permissions in a few words.

        >>> Permissions().describe()
        'no environment, no network, no files, no writes, no processes'
        """
        environment = f"environment {', '.join(self.environment)}" if self.environment else "no environment"
        network = "network" if self.network else "no network"
        files = f"reads {', '.join(self.files)}" if self.files else "no files"
        return f"{environment}, {network}, {files}, no writes, no processes"
