"""The attention of gpt-oss, with sinks, biases and windows, in a model with MLPs in place of its experts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GptOssConfig, GptOssForSequenceClassification, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.distributed import Workers
from tests.marks import full
from tests.parity.comparison import Differences, differences, write_case
from tests.parity.family_cases import TINY, WINDOW
from tests.parity.test_families import LAYOUTS, TOLERANCE, tensors_in

# Fields as published: openai/gpt-oss-20b, with small sizes.
CONFIG: dict[str, Any] = {
    **TINY,
    "model_type": "gpt_oss_dense",
    "attention_bias": True,
    "hidden_act": "silu",
    "initial_context_length": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": WINDOW,
}


class DenseMLP(LlamaMLP):  # type: ignore[misc]
    """With the form of the experts' result."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), None


class DenseGptOss:
    """As `FamilyCase`, for `write_case`."""

    def model(self) -> PreTrainedModel:
        config = GptOssConfig.from_dict({**CONFIG, "model_type": "gpt_oss", "num_local_experts": 2})
        config.num_labels, config.initializer_range, config.mlp_bias = 1, 0.15, False
        torch.manual_seed(1234)
        model = GptOssForSequenceClassification(config).float().eval()
        for layer in model.model.layers:
            layer.mlp = DenseMLP(config)
        for name, parameter in model.named_parameters():
            if "mlp" in name:
                torch.nn.init.normal_(parameter, std=0.15)
            elif parameter.dim() == 1:
                parameter.data.add_(torch.randn(parameter.shape) * 0.1)
            if name.endswith("sinks"):
                torch.nn.init.normal_(parameter)
        return model

    def write(self, directory: Path, tensors: dict[str, torch.Tensor]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(CONFIG))
        contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(contiguous, directory / "model.safetensors", metadata={"format": "pt"})


def differences_of_dense_gpt_oss(*arguments: Any) -> Differences:
    """`differences`, in a process that knows the family."""
    from modellink_rm.model.families.family import Config, Family
    from modellink_rm.model.families.fields import key_value_heads, transformers_shape
    from modellink_rm.model.families.llama import LAYER, NAMES
    from modellink_rm.model.families.registry import FAMILIES
    from modellink_rm.model.families.rotary_fields import whole_rope
    from modellink_rm.model.families.tensors import attention_sinks, decoder_tensors
    from modellink_rm.model.families.window_fields import every_nth_full, windows_of
    from modellink_rm.model.shape import ModelShape

    def read_shape(config: Config) -> ModelShape:
        shape = transformers_shape(
            config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=True
        )
        windows = windows_of(config, every_nth_full(config, 2))
        return dataclasses.replace(shape, windows=windows, attention_sinks=True, attention_output_bias=True)

    tensors = decoder_tensors(**NAMES, more_of_layer=attention_sinks(LAYER + "self_attn.sinks"))
    if "gpt_oss_dense" not in FAMILIES:
        FAMILIES.add(Family(read_shape=read_shape, tensors=tensors), "gpt_oss_dense")
    return differences(*arguments)


@pytest.mark.parametrize(
    ("layout", "share"),
    [
        ("one process", True),
        full("one process", False),
        *(full(name, True) for name in LAYOUTS if LAYOUTS[name]),
    ],
)
def test_attention_of_gpt_oss_gives_the_numbers_of_transformers(
    layout: str, share: bool, workers: Workers, tmp_path: Path
) -> None:
    write_case(DenseGptOss(), tmp_path / "read")
    flags = [*LAYOUTS[layout].split(), "--make-vocab-size-divisible-by", "1"]
    arguments = (str(tmp_path / "read"), flags, share, str(tmp_path / "written"))
    for found in workers.run(differences_of_dense_gpt_oss, 2 if LAYOUTS[layout] else 1, *arguments):
        assert found.largest() < TOLERANCE, found
    read, written = (tensors_in(tmp_path / name) for name in ("read", "written"))
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)
