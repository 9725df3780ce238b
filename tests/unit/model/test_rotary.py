"""Rotary angles equal transformers', for every scaling and at published sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from modellink_rm.batching.batch import pack_examples
from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.fits import shares_prompts
from modellink_rm.model.layers.frequencies import frequencies
from modellink_rm.model.layers.rotary import RotaryAngles
from tests.tiny_data import random_example

CONFIGS = Path(__file__).parents[2] / "fixtures" / "configs"
LLAMA = json.loads((CONFIGS / "llama-3.1-8b-instruct.json").read_text())
FACTORS = [1.0 + 0.3 * number for number in range(64)]
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "llama3": LLAMA["rope_scaling"],
    "llama3_small": {**LLAMA["rope_scaling"], "factor": 32.0, "original_max_position_embeddings": 100},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn_of_the_ratio": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 4096},
    "yarn_all_numbers": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 20,
        "beta_slow": 2,
        "mscale": 0.707,
        "mscale_all_dim": 1.2,
        "truncate": False,
    },
    "yarn_attention_factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 0.8,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": FACTORS,
        "long_factor": FACTORS[::-1],
        "original_max_position_embeddings": 4096,
    },
    "longrope_factor": {
        "rope_type": "longrope",
        "short_factor": FACTORS,
        "long_factor": FACTORS[::-1],
        "original_max_position_embeddings": 4096,
        "factor": 16.0,
        "attention_factor": 1.25,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_angles_are_those_of_transformers_own_rotary_embedding(name: str, field: str) -> None:
    config = {**LLAMA, "rope_scaling": None, field: {**SCALINGS[name], "rope_theta": 500000.0}}
    position_ids = torch.tensor([0, 1, 2, 77, 4095])
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(config))(torch.zeros(1), position_ids[None])
    ours = RotaryAngles(shape_from_config(config))(position_ids)
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.equal(found[:, 0], expected[0, :, :64])  # both halves of a head are equal


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
@pytest.mark.parametrize("length", [1, 4096, 4097, 131072, 131073, 200000])
def test_frequencies_of_a_long_sequence_are_those_of_transformers(name: str, length: int) -> None:
    config = {**LLAMA, "rope_scaling": dict(SCALINGS[name])}
    shape = shape_from_config(config)
    expected, factor = ROPE_INIT_FUNCTIONS[name](
        LlamaConfig.from_dict(config), torch.device("cpu"), seq_len=torch.tensor(length)
    )
    assert shape.rope_scaling is not None
    assert shape.rope_scaling.attention_factor == factor
    found = frequencies(shape.rotary_base, shape.rotary_channels, shape.rope_scaling, length=length)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["phi-3-mini-128k-instruct", "phi-4-mini-instruct", "phi-4"])
def test_angles_of_a_published_phi_are_those_of_transformers(name: str) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    position_ids = torch.tensor([0, 1, 500, 4000])
    embedding = Phi3RotaryEmbedding(CONFIG_MAPPING["phi3"].from_dict(dict(config)))
    theirs = embedding(torch.zeros(1), position_ids[None])
    ours = RotaryAngles(shape_from_config(config))(position_ids)
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.equal(found[:, 0], expected[0, :, : expected.shape[-1] // 2])


@pytest.mark.parametrize("name", ["llama3", "yarn", "longrope"])
def test_original_positions_of_the_config_come_before_those_of_its_scaling(name: str) -> None:
    config = {**LLAMA, "original_max_position_embeddings": 1000, "rope_scaling": dict(SCALINGS[name])}
    position_ids = torch.tensor([0, 77, 900])
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(config))(torch.zeros(1), position_ids[None])[0]
    shape = shape_from_config(config)
    assert torch.equal(RotaryAngles(shape)(position_ids)[0][:, 0], theirs[0, :, :64])
    assert shape.rope_scaling is not None
    assert shape.rope_scaling.original_positions == 1000


def test_scalings_differ_from_each_other() -> None:
    """Else the comparisons above would not show one that is read as another."""
    position_ids = torch.tensor([900])
    angles = [
        RotaryAngles(shape_from_config({**LLAMA, "rope_scaling": scaling}))(position_ids)[0]
        for name, scaling in SCALINGS.items()
        if name != "dynamic"  # the default, up to the model's positions
    ]
    for number, one in enumerate(angles):
        assert all(not torch.allclose(one, other, atol=1e-4) for other in angles[:number])


def test_every_packed_sequence_has_the_angles_of_its_own_length() -> None:
    config = {**LLAMA, "max_position_embeddings": 10, "rope_scaling": SCALINGS["dynamic"]}
    shape = shape_from_config(config)
    lengths = (7, 12, 10, 30)
    examples = [random_example(number, 3, length - 3) for number, length in enumerate(lengths)]
    whole = pack_examples(examples, share_prefixes=False, divisible_by=4)
    angles = RotaryAngles(shape)
    found = angles.of_batch(whole)[0]
    for segment, length in zip(whole.segments, lengths, strict=False):  # and padding
        embedding = LlamaRotaryEmbedding(LlamaConfig.from_dict(config))  # a new one: it keeps the longest
        expected = embedding(torch.zeros(1), torch.arange(length)[None])[0]
        assert torch.equal(found[segment.start : segment.end, 0], expected[0, :, :64])
    parts = [angles.of_batch(whole.share(rank=rank, size=2))[0] for rank in range(2)]
    (first, second), (third, fourth) = (part.chunk(2) for part in parts)
    assert torch.equal(torch.cat((first, third, fourth, second)), found)


@pytest.mark.parametrize(("name", "shares"), [("dynamic", False), ("longrope", False), ("yarn", True)])
def test_prompts_are_shared_where_their_angles_are(name: str, shares: bool) -> None:
    shape = shape_from_config({**LLAMA, "max_position_embeddings": 4096, "rope_scaling": SCALINGS[name]})
    assert shares_prompts(4096, shape)
    assert shares_prompts(4097, shape) == shares
