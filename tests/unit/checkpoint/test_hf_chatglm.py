"""The tiny ChatGLM directory, run in the order that THUDM's modeling_chatglm.py computes in."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights
from modellink_rm.checkpoint.model_plan import plan_model
from modellink_rm.checkpoint.source import open_source
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import LANGUAGE_MODEL_HEAD, ModelSpec
from tests.tiny_models import write_tiny_chatglm, write_tiny_llama

FINAL_NORM = "transformer.encoder.final_layernorm.weight"


def norm(hidden_states: torch.Tensor, weight: torch.Tensor, shape: ModelShape) -> torch.Tensor:
    return F.rms_norm(hidden_states, (shape.hidden_size,), weight, shape.norm_epsilon)


def rotated(heads: torch.Tensor, shape: ModelShape) -> torch.Tensor:
    """[s, heads, d]: neighbouring channels of the first half are pairs, turned by position."""
    half = shape.kv_channels // 2
    theta = 1.0 / shape.rotary_base ** (torch.arange(0, half, 2).float() / half)
    angles = torch.outer(torch.arange(len(heads)).float(), theta)[:, None]
    even, odd = heads[..., 0:half:2], heads[..., 1:half:2]
    turned = torch.stack(
        [even * angles.cos() - odd * angles.sin(), odd * angles.cos() + even * angles.sin()], dim=-1
    )
    return torch.cat([turned.flatten(-2), heads[..., half:]], dim=-1)


def last_hidden_states(
    weights: dict[str, torch.Tensor], ids: torch.Tensor, shape: ModelShape
) -> torch.Tensor:
    """[s, h] after the final norm."""
    size, groups = shape.kv_channels, shape.num_query_groups
    hidden = weights["transformer.embedding.word_embeddings.weight"][ids]
    for number in range(shape.num_layers):
        layer = f"transformer.encoder.layers.{number}."
        mixed = F.linear(
            norm(hidden, weights[layer + "input_layernorm.weight"], shape),
            weights[layer + "self_attention.query_key_value.weight"],
            weights[layer + "self_attention.query_key_value.bias"],
        )
        query, key, value = mixed.split(
            [shape.num_attention_heads * size, groups * size, groups * size], dim=-1
        )
        query, key = (rotated(part.unflatten(-1, (-1, size)), shape) for part in (query, key))
        value = value.unflatten(-1, (-1, size))
        key, value = (part.repeat_interleave(shape.heads_per_group, dim=1) for part in (key, value))
        context = F.scaled_dot_product_attention(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), is_causal=True
        )
        context = context.transpose(0, 1).flatten(-2)
        hidden = hidden + F.linear(context, weights[layer + "self_attention.dense.weight"])
        normed = norm(hidden, weights[layer + "post_attention_layernorm.weight"], shape)
        gate, up = F.linear(normed, weights[layer + "mlp.dense_h_to_4h.weight"]).chunk(2, dim=-1)
        hidden = hidden + F.linear(F.silu(gate) * up, weights[layer + "mlp.dense_4h_to_h.weight"])
    return norm(hidden, weights["transformer.encoder.final_layernorm.weight"], shape)


@pytest.mark.parametrize("rope_ratio", [1, 50])
def test_tiny_chatglm_computes_what_its_transformers_model_does(tmp_path: Path, rope_ratio: int) -> None:
    model = write_tiny_chatglm(tmp_path, rope_ratio=rope_ratio)
    ids = torch.randint(3, 320, (40,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model.base_model(ids[None]).last_hidden_state[0]
        shape = HuggingFaceWeights(tmp_path).shape
        got = last_hidden_states(load_file(tmp_path / "model.safetensors"), ids, shape)
    # The same float32 sums in another order, four layers deep.
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def spec_of(directory: Path, *, head: str | None = None) -> ModelSpec:
    return plan_model(
        open_source(str(directory)), ModelConfig(), ParallelConfig(), loosely=head is not None, head=head
    ).spec


@pytest.mark.parametrize("has_norm", [True, False])
def test_a_directory_that_says_so_is_scored_before_the_final_norm(tmp_path: Path, has_norm: bool) -> None:
    """As export writes the models of examples/reward_chatglm3_6B.sh: it was refused."""
    write_tiny_chatglm(tmp_path, kind="score", post_layer_norm=False)
    if not has_norm:
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors[FINAL_NORM]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert spec_of(tmp_path).post_layer_norm is False


def test_the_field_says_nothing_of_other_families(tmp_path: Path) -> None:
    """transformers passes over it too."""
    write_tiny_llama(tmp_path, kind="score", post_layer_norm=False)
    assert json.loads((tmp_path / "config.json").read_text())["post_layer_norm"] is False
    assert spec_of(tmp_path).post_layer_norm is True


def test_a_norm_that_config_json_has_may_not_be_missing(tmp_path: Path) -> None:
    write_tiny_chatglm(tmp_path, kind="score")
    assert spec_of(tmp_path).post_layer_norm is True
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[FINAL_NORM]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"missing {FINAL_NORM}"):
        spec_of(tmp_path)


def test_a_language_model_without_the_final_norm_is_refused(tmp_path: Path) -> None:
    write_tiny_chatglm(tmp_path, post_layer_norm=False)
    with pytest.raises(UserError, match="a language model without the final norm is not supported"):
        spec_of(tmp_path, head=LANGUAGE_MODEL_HEAD)
