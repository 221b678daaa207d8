"""liger-kernel's Triton kernels (norms, gated MLP, rotary embedding) in a transformers model, where there is a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from posttrain.errors import InputError
from posttrain.stages.learner.rank import attention


def use_kernels(model: Any, which: str) -> bool:
    """Swap the model's layers for `liger`'s, or for what there is (`auto`), or compile them; says whether anything was
    done.

    Its fused losses stay out: the learner's own need statistics of every token.

    Raises:
        InputError: `liger` was asked for and isn't installed.
    """
    if which == "torch":
        return False
    if which == "compile":
        _compile_layers(model)
        return True
    if find_spec("liger_kernel") is None:
        if which == "liger":
            raise InputError(
                "`cluster.learner.kernels: liger` needs the package liger-kernel", fix="pip install 'posttrain[gpu]'"
            )
        return False
    from liger_kernel.transformers import monkey_patch

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = plain.config.model_type
    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        if which == "liger":
            raise InputError(f"liger-kernel has no kernels for {kind!r}", fix="set `cluster.learner.kernels: torch`")
        return False
    monkey_patch._apply_liger_kernel_to_instance(
        plain, fused_linear_cross_entropy=False, cross_entropy=False, rms_norm=True, swiglu=True, rope=True
    )
    return True


def _compile_layers(model: Any) -> None:
    """Each decoder layer in two graphs, before attention and after it: the packed kernel is called as it is."""
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.packed_attention))
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in plain.base_model.layers:
        layer.compile(dynamic=True)
