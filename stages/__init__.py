"""The six kinds of stage, one file each, over the sub-rooms that they share.

Kinds never import each other. `KINDS` is the registry that pipelines call; modules are imported on first use,
so that planning a run needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from posttrain.configs.nodes.own_kinds import is_own, load_module

if TYPE_CHECKING:
    from posttrain.stages.context import StageContext, StageResult

KINDS = ("curate", "sample", "sft", "grpo", "distill", "evaluate")


def run_stage(context: StageContext) -> StageResult:
    """Run the stage that `context` describes and return what it leaves in `context.artifact_dir`."""
    kind = context.spec.kind
    own = is_own(kind)
    module = load_module(kind, context.recipe_dir) if own else import_module(f"posttrain.stages.{kind}")
    return module.run(context)
