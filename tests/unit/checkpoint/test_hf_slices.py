"""Tensors of all experts: the part of each, as the engine has it, and back."""

import json
from pathlib import Path

import pytest
import torch

from modellink_rm.checkpoint.hf.mappings import engine_names, expected_shapes, is_of_expert, tensor_plan
from modellink_rm.checkpoint.hf.slices import read_piece, write_piece
from modellink_rm.model.families.registry import FAMILIES, shape_from_config
from modellink_rm.model.spec import ModelSpec

CONFIG = json.loads((Path(__file__).parents[2] / "fixtures" / "configs" / "gpt-oss-20b.json").read_text())
SIZES = {"hidden_size": 12, "intermediate_size": 6, "num_local_experts": 5, "quantization_config": None}
SIZES |= {"num_hidden_layers": 2, "layer_types": None}
TABLE = FAMILIES["gpt_oss"].tensors
SPEC = ModelSpec(shape=shape_from_config({**CONFIG, **SIZES}), padded_vocab_size=CONFIG["vocab_size"])
EXPERTS = "model.layers.1.mlp.experts."


def stored_experts() -> dict[str, torch.Tensor]:
    """The tensors of all experts, of different numbers."""
    shapes = {name: size for name, size in expected_shapes(SPEC.shape, TABLE).items() if ".experts." in name}
    ends, tensors = 0, {}
    for name, size in shapes.items():
        start, ends = ends, ends + torch.Size(size).numel()
        tensors[name] = torch.arange(start, ends).view(size)
    return tensors


def read(name: str, stored: dict[str, torch.Tensor], *, rank: int = 0, size: int = 1) -> torch.Tensor:
    plan = tensor_plan(name, SPEC, TABLE, tp_rank=rank, tp_size=size)
    tensor = torch.cat([read_piece(stored[piece.name], plan, piece) for piece in plan.pieces])
    assert tuple(tensor.shape) == plan.shape
    return tensor


def test_an_expert_has_its_gate_then_its_up_projection_of_the_columns_in_turn() -> None:
    stored = stored_experts()
    gate_up, down = stored[EXPERTS + "gate_up_proj"][3], stored[EXPERTS + "down_proj"][3]
    assert gate_up.shape == (12, 12)
    assert down.shape == (6, 12)
    ours = "decoder.layers.1.mlp.experts.3."
    expected = torch.cat((gate_up[:, 0::2].T, gate_up[:, 1::2].T))
    assert torch.equal(read(f"{ours}fc1.weight", stored), expected)
    assert torch.equal(read(f"{ours}fc2.weight", stored), down.T)
    bias = stored[EXPERTS + "gate_up_proj_bias"][3]
    assert torch.equal(read(f"{ours}fc1.bias", stored), torch.cat((bias[0::2], bias[1::2])))
    assert torch.equal(read(f"{ours}fc2.bias", stored), stored[EXPERTS + "down_proj_bias"][3])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_part_of_an_expert_has_its_share_of_gate_and_of_up_projection(rank: int) -> None:
    stored, name = stored_experts(), "decoder.layers.1.mlp.experts.3.fc1.weight"
    gate, up = read(name, stored).chunk(2)
    expected = torch.cat((gate.chunk(2)[rank], up.chunk(2)[rank]))
    assert torch.equal(read(name, stored, rank=rank, size=2), expected)


def test_what_is_read_of_every_expert_is_written_back_into_the_whole_tensors() -> None:
    stored = stored_experts()
    written = {name: torch.full_like(tensor, -1) for name, tensor in stored.items()}
    for name in filter(is_of_expert, engine_names(SPEC.shape, TABLE)):
        for rank in range(2):
            plan = tensor_plan(name, SPEC, TABLE, tp_rank=rank, tp_size=2)
            (piece,) = plan.pieces
            write_piece(written[piece.name], plan, piece, read_piece(stored[piece.name], plan, piece))
    assert all(torch.equal(written[name], stored[name]) for name in stored)
