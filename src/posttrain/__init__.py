"""posttrain: post-train language models the way Qwen3 was made, from one YAML file.

The names of `posttrain.api` are attributes of this package. They are loaded at first use, so `import posttrain` imports
nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.api import Answer as Answer
    from posttrain.api import Plan as Plan
    from posttrain.api import Recipe as Recipe
    from posttrain.api import Run as Run
    from posttrain.api import Stage as Stage
    from posttrain.api import distill as distill
    from posttrain.api import generate as generate
    from posttrain.api import open_run as open_run
    from posttrain.api import plan as plan
    from posttrain.api import read_recipe as read_recipe
    from posttrain.api import run as run
    from posttrain.api import score as score

__version__ = "0.1.0"

_API = (
    "Answer",
    "Plan",
    "Recipe",
    "Run",
    "Stage",
    "distill",
    "generate",
    "open_run",
    "plan",
    "read_recipe",
    "run",
    "score",
)


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from posttrain import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
