"""Code that is judged can be confined here, in the languages and with the libraries that the recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import RewardUse
from posttrain.errors import RecipeError, SandboxError
from posttrain.pipelines.graph.rights import rights_of
from posttrain.rewards.mixture.confinement import CONFINED

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan


def check_sandbox(loaded: LoadedRecipe, plan: Plan) -> None:
    """Refuse to start where code would be judged, or answers read, and can't be confined. Raises SandboxError."""
    nodes = [stage.node for stage in plan.pending]
    if any(use.may.startswith(CONFINED) for use in rights_of(nodes)):
        check_rooms_open()
    tools = any(use.use == "python" for node in nodes for use in node.environments)
    if not tools and not any(needs_sandbox(node.rewards) for node in nodes):
        return
    from posttrain.sandbox.tiers import require

    settings = loaded.recipe.cluster.sandbox
    check_rooms(loaded, plan, require(settings.min_tier).tier)


def check_rooms_open() -> None:
    """Open the room that built-in rewards share. Raises SandboxError where this host can't confine it."""
    from posttrain.rewards.mixture.rooms import plain_room
    from posttrain.sandbox.confined.service import LoadFailed

    try:
        plain_room().wants()
    except LoadFailed as error:
        fix = "run `posttrain doctor`; or give each reward `confine: false`, and let answers be read with your rights"
        raise SandboxError(f"rewards can't be confined: {error}", where="rewards", fix=fix) from None


def check_rooms(loaded: LoadedRecipe, plan: Plan, tier: str | None = None) -> None:
    """Refuse libraries and languages for judged code that aren't here, or that `tier`, if it is known, can't confine.

    Starts nothing. Raises RecipeError.
    """
    uses = [use for stage in plan.pending for use in stage.node.rewards if needs_sandbox([use])]
    if not uses:
        return
    from posttrain.sandbox import languages
    from posttrain.sandbox.isolation import preloads

    settings = loaded.recipe.cluster.sandbox
    try:
        preloads.locate(settings.preload)
        languages.check(settings.languages, tier)
    except (preloads.PreloadError, languages.LanguageError) as error:
        where = "preload" if isinstance(error, preloads.PreloadError) else "languages"
        at = loaded.where(("cluster", "sandbox", where))
        raise RecipeError(str(error), where=at, fix=f"install it, or leave it out of `{where}`") from error
    for language in {use.params.get("language") for use in uses} - {None, "python", *settings.languages}:
        raise RecipeError(
            f"reward language {language!r}: other languages than Python have to be opted for",
            where=loaded.where(("cluster", "sandbox")),
            fix=f"cluster: {{sandbox: {{languages: [{language}]}}}}",
        )


def needs_sandbox(uses: Sequence[RewardUse]) -> bool:
    """Whether any of the rewards runs code."""
    from posttrain.rewards.base import BUILTINS

    return any(use.use in BUILTINS and BUILTINS[use.use].needs == "judge" for use in uses)
