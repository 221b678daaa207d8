"""What a confined function may use: the node `needs` of a reward or an environment."""

from __future__ import annotations

from pydantic import Field

from posttrain.configs.nodes.strict import Strict


class Access(Strict):
    """What a confined reward or environment may use besides installed packages and its own folder's Python files."""

    network: bool = Field(False, description="whether it may open connections; it can't listen")
    environment: tuple[str, ...] = Field((), description="names of the environment variables that it is passed")
    files: tuple[str, ...] = Field(
        (), description="files and folders that it may read; relative paths start at the recipe's folder"
    )


CONFINE = (
    "whether it runs in a room without environment, network, writes and other processes; built-ins always do unless "
    "this is false, your own functions only where this is true or `needs` is given"
)
NEEDS = "what the room allows: {network: true, environment: [NAME], files: [data/]}; implies `confine: true`"


def check_access(confine: bool | None, needs: Access | None) -> None:
    """Raises ValueError where the two contradict each other."""
    if needs is not None and confine is False:
        raise ValueError(
            "`needs` names what a confined function may use, and `confine` is false: leave one of them out"
        )
