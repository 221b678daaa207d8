"""A pruned student is a whole model: the layers that were named, loadable by plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from posttrain.errors import InputError, PosttrainError
from posttrain.pipelines.commands.cli import app
from posttrain.stages.models.locations import builtin_path
from posttrain.stages.models.pruning import evenly, prune


def test_the_kept_layers_are_the_named_ones_bit_for_bit(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(builtin_path("builtin:tiny"))
    whole = AutoModelForCausalLM.from_pretrained(source)
    last = len(whole.base_model.layers) - 1
    assert prune(source, tmp_path / "s", layers=(0, last)) == (0, last)
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    assert len(small.base_model.layers) == 2
    for ours, theirs in zip(
        small.base_model.layers, (whole.base_model.layers[0], whole.base_model.layers[last]), strict=True
    ):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(small.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "s").chat_template


@pytest.mark.parametrize(("total", "keep", "expected"), [(28, 14, 14), (4, 4, 4), (5, 2, 2), (7, 1, 1)])
def test_even_layers_are_distinct_and_hold_the_ends(total: int, keep: int, expected: int) -> None:
    chosen = evenly(total, keep)
    assert len(set(chosen)) == expected
    assert chosen[0] == 0
    assert keep == 1 or chosen[-1] == total - 1


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 4"):
        evenly(4, 5)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="isn't empty"):
        prune("x", tmp_path, keep=1)
    for arguments in ([], ["--keep", "1", "--layers", "0"], ["--layers", "a"]):
        result = CliRunner().invoke(app, ["prune", "builtin:tiny", "--out", str(tmp_path / "o"), *arguments])
        assert isinstance(result.exception, PosttrainError)


def test_the_command_says_what_stayed(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prune", "builtin:tiny", "--keep", "2", "--out", str(tmp_path / "o")])
    assert result.exit_code == 0, result.output
    assert "layers 0, " in result.output
