"""What rewards, filters and environments may do, and the process that each runs in.

Built-ins that read model text run in confined rooms. A function of the user's own has the user's rights, as in TRL
and verl, unless the recipe confines it: `confine: true`, or `needs: {network: true, environment: [MY_TOKEN]}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.configs.schema import RewardUse
from posttrain.rewards.environments.registry import ENVIRONMENTS
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.workers import MEMORY_BYTES, Process, Service, WorkerProcess
from posttrain.sandbox.confined import ConfinedService, Permissions

CONFINED = "confined"
"""How a description begins of what runs in a confined room."""
USERS_RIGHTS = "your own function: your rights (files, network, environment); `confine: true` takes them away"
UNCONFINED = "not confined, by `confine: false`: a fault in a library may let a completion act with your rights"
IN_THE_SANDBOX = "runs the completion's code in the sandbox"
ASKS_A_MODEL = "sends the text to a model; reads the reply in this process"
FILTER = "reads text in this process, by this package's own code"
_OWN_SANDBOX = frozenset({"python"})
"""Environments of the package whose tools run code in the sandbox themselves."""
_MOST_FILES = 2000
"""Python files of the recipe's folder that a confined function may import."""


def process_for(service: Service, use: RewardUse | EnvironmentUse, recipe_dir: Path, *, stateful: bool) -> Process:
    """The process that a function or an environment of the recipe runs in, confined or not. `stateful`: it can't be
    replaced between calls.
    """
    permissions = permissions_of(use, recipe_dir)
    if permissions is None:
        return WorkerProcess(service)
    return ConfinedService(
        service,
        permissions=permissions,
        fresh=False,
        guarded=False,
        recycled=not stateful,
        memory_mb=MEMORY_BYTES >> 20,
        listed=[str(recipe_dir)],
    )


def permissions_of(use: RewardUse | EnvironmentUse, recipe_dir: Path) -> Permissions | None:
    """What the room of a function or environment allows; None if it isn't confined."""
    packaged = isinstance(use, EnvironmentUse) and use.use in ENVIRONMENTS
    if use.confine is False or (use.needs is None and use.confine is None and not packaged):
        return None
    if packaged and use.use in _OWN_SANDBOX:
        return None
    own = () if packaged else _python_files(recipe_dir)
    given = _given_files(use.params, recipe_dir) if packaged else ()
    if use.needs is None:
        return Permissions(files=(*own, *given))
    named = [str((recipe_dir / Path(name).expanduser()).resolve()) for name in use.needs.files]
    needs = use.needs
    return Permissions(network=needs.network, environment=needs.environment, files=(*own, *given, *named))


def describe_reward(use: RewardUse) -> str:
    """What a reward may do, in one line."""
    from posttrain.rewards.builtins import BUILTINS

    builtin = None if split_path(use.use) else BUILTINS.get(use.use)
    if builtin is None:
        return _of_user(use)
    if builtin.needs == "judge":
        return IN_THE_SANDBOX
    if builtin.needs in ("chat", "reward_model"):
        return ASKS_A_MODEL
    if use.confine is False:
        return UNCONFINED
    rooms = {"worker": ", a fresh room per completion", "math": ", a fresh room per symbolic comparison"}
    return f"{CONFINED}{rooms.get(builtin.needs, '')}: {Permissions().describe()}"


def describe_environment(use: EnvironmentUse) -> str:
    """What the tools of an environment may do, in one line."""
    if use.use not in ENVIRONMENTS:
        return _of_user(use)
    if use.use in _OWN_SANDBOX:
        return IN_THE_SANDBOX
    return UNCONFINED if use.confine is False else f"{CONFINED}: {Permissions().describe()}"


def _of_user(use: RewardUse | EnvironmentUse) -> str:
    if use.confine is False or (use.confine is None and use.needs is None):
        return USERS_RIGHTS
    needs = use.needs
    if needs is None:
        return f"{CONFINED}: {Permissions().describe()}"
    permissions = Permissions(network=needs.network, environment=needs.environment, files=needs.files)
    return f"{CONFINED}: {permissions.describe()}"


def _python_files(folder: Path) -> Iterable[str]:
    """What a function imports from beside its file, also late: Python files only, so that data stays unread."""
    found = []
    for path in folder.rglob("*.py"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found.append(str(path))
        if len(found) == _MOST_FILES:
            break
    return found


def _given_files(params: dict[str, Any], recipe_dir: Path) -> list[str]:
    """Files that an environment of the package is given by its parameters, such as the corpus of `search`."""
    paths = [recipe_dir / Path(value).expanduser() for value in params.values() if isinstance(value, str)]
    return [str(path.resolve()) for path in paths if path.is_file()]
