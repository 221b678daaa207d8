"""The model card of a trained model: what it is, what it was made from and how, and how to ask it."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import Recipe, TrainingStage
from posttrain.pipelines.planning.plan import StagePlan
from posttrain.stages.context import StageResult

CARD = "README.md"

_USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
question = [{"role": "user", "content": "..."}]
ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=False)
print(tokenizer.decode(model.generate(ids, max_new_tokens=512)[0][ids.shape[1]:]))
```

`generation_config.json` has the stop tokens, and the sampling of the thinking mode. `enable_thinking=False` in the
template prefills an empty think block; a model that went through thinking-mode fusion also follows `/think` and
`/no_think` at the end of a question.
"""


def write_card(folder: Path, loaded: LoadedRecipe, stage: StagePlan, result: StageResult) -> None:
    """Write README.md into `folder`; values from the environment stay out of it."""
    (folder / CARD).write_text(loaded.mask(model_card(loaded, stage, result)), encoding="utf-8")


def model_card(loaded: LoadedRecipe, stage: StagePlan, result: StageResult) -> str:
    """The card of the model that `stage` made."""
    recipe, spec, declared = loaded.recipe, stage.node.spec, stage.node.declaration
    ancestors = lineage(recipe, stage.name)
    rows = {
        "recipe": recipe.name,
        "stage": f"{stage.name} ({spec.kind})",
        "key": f"`{stage.key.key}`",
        "parent": ancestors[-2] if len(ancestors) > 1 else "",
        "lineage": " > ".join(ancestors),
        **(_length(declared.training, result) if declared.training else {}),
        "seed": recipe.seed if spec.seed is None else spec.seed,
        **(_optimization(declared.training) if declared.training else {}),
        "data": ", ".join(item.source.source for item in declared.sources if item.role in ("prompts", "training")),
        "stop tokens": ", ".join(map(str, result.provenance.get("stop_ids", ()))),
    }
    parts = [_front(stage, ancestors[0]), f"# {recipe.name}: {stage.name}", recipe.description]
    parts.append(_table(("", ""), {name: str(value) for name, value in rows.items() if value != ""}))
    if result.metrics:
        numbers = {name: f"{value:.6g}" for name, value in result.metrics.items()}
        parts += ["## Training summary", _table(("metric", "value"), numbers)]
    return "\n\n".join(part for part in (*parts, _USE) if part)


def lineage(recipe: Recipe, name: str) -> list[str]:
    """The models that led to a stage's, the first one first: a base, then stages."""
    names = [name]
    while (spec := recipe.stages.get(names[0])) is not None and spec.model is not None:
        source = spec.model.source
        if source == "base" and recipe.base is not None:
            source = recipe.base.source
        names.insert(0, source)
    return names


def _length(training: TrainingStage, result: StageResult) -> dict[str, object]:
    field, length = training.length
    epochs = {"epochs": f"{length:g}"} if field == "epochs" else {}
    return {**epochs, "steps": int(result.metrics.get("steps", training.steps))}


def _optimization(training: TrainingStage) -> dict[str, object]:
    optimizer = training.optimizer
    return {
        "optimizer": f"AdamW, learning rate {optimizer.lr:g}, {optimizer.schedule}, warm-up {optimizer.warmup} steps",
        "weights": "LoRA, merged" if training.lora else "full",
    }


def _front(stage: StagePlan, origin: str) -> str:
    """The metadata that model hubs read: JSON values are YAML."""
    fields: dict[str, object] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    fields["tags"] = ["posttrain", stage.node.spec.kind]
    if _on_a_hub(origin):
        fields["base_model"] = origin
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _on_a_hub(source: str) -> bool:
    return not source.startswith(("builtin:", "/", ".", "~")) and source.count("/") == 1


def _table(header: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [header, ("---", "---"), *((name, value.replace("|", "\\|")) for name, value in rows.items())]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)
