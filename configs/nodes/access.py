"""What a confined function may use: the node `needs` of a reward or an environment."""

from __future__ import annotations

from pydantic import Field

from posttrain.configs.nodes.strict import Strict


class Access(Strict):
    """What a confined reward or environment may use besides installed packages and its own folder's Python files."""

    network: bool = Field(False, description="Whether the process may open connections. It can never listen.")
    environment: tuple[str, ...] = Field((), description="Names of environment variables to pass.")
    files: tuple[str, ...] = Field(
        (), description="Files and folders that may be read; relative paths start at the recipe's folder."
    )


CONFINE = (
    "Whether it runs in a confined process, without environment variables, network, writes and "
    "other processes. Default: true for built-ins; for your own functions, true if `needs` is "
    "set."
)
NEEDS = (
    "What the confined process may access, as {network: true, environment: [NAME], files: "
    "[data/]}. Implies `confine: true`."
)


def check_access(confine: bool | None, needs: Access | None) -> None:
    """Raises ValueError where the two contradict each other."""
    if needs is not None and confine is False:
        raise ValueError(
            "`needs` names what a confined function may use, and `confine` is false: leave one of them out"
        )
