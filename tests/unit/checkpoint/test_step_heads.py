"""The head of models that score steps: found in a directory, and belonging to its stage."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.source import open_source
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.spec import REWARD_HEAD, STEP_HEAD
from tests.tiny_models import write_tiny_llama


def planned(directory: Path | None, head: str | None) -> ModelPlan:
    load = None if directory is None else str(directory)
    return plan_model(open_source(load), ModelConfig(), ParallelConfig(), loosely=True, head=head)


def with_step_head(directory: Path, *, rows: int = 2, has_bias: bool = True) -> Path:
    """A tiny model with the head of transformers' ForTokenClassification."""
    write_tiny_llama(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["score.weight"] = torch.arange(rows * 64.0).view(rows, 64)
    if has_bias:
        tensors["score.bias"] = torch.ones(rows)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_weights_without_a_head_take_that_of_the_stage(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    spec = planned(tmp_path, STEP_HEAD).spec
    assert (spec.head, spec.head_bias, spec.scores_steps) == (STEP_HEAD, True, True)
    assert planned(tmp_path, REWARD_HEAD).spec.scores_steps is False
    assert planned(tmp_path, None).spec.head == REWARD_HEAD


def test_head_of_two_labels_with_a_bias_scores_steps(tmp_path: Path) -> None:
    source = with_step_head(tmp_path)
    for head in (None, STEP_HEAD):
        plan = planned(source, head)
        assert plan.spec.scores_steps
        assert plan.source.hugging_face is not None
        weight, bias = plan.source.hugging_face.head() or (None, None)
        assert weight is not None
        assert bias is not None
        assert (weight.shape, bias.tolist()) == ((2, 64), [1.0, 1.0])
    with pytest.raises(UserError, match="a model with a head for steps, which --stage prm trains"):
        planned(source, REWARD_HEAD)


def test_head_of_whole_responses_is_refused_with_stage_prm(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, value_head=True)
    with pytest.raises(UserError, match="a head for whole responses, which --stage rm trains"):
        planned(tmp_path, STEP_HEAD)


@pytest.mark.parametrize(("rows", "has_bias"), [(2, False), (3, True)])
def test_other_heads_of_several_labels_are_refused(rows: int, has_bias: bool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a reward head has num_labels 1"):
        planned(with_step_head(tmp_path, rows=rows, has_bias=has_bias), None)
