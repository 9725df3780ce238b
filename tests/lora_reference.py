"""LoRA as PEFT has it: its directory of a random adapter, and its formula in a model of transformers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WRAPPED = "base_model.model."
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """W x + alpha / r B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, scaling: float) -> None:
        super().__init__()
        self.linear, self.scaling = linear, scaling
        self.lora_A = nn.Parameter(a.clone())
        self.lora_B = nn.Parameter(b.clone())

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states) + states @ self.lora_A.T @ self.lora_B.T * self.scaling


def write_adapter(
    model: Any,
    directory: Path,
    *,
    targets: Sequence[str] = ALL_LINEAR,
    rank: int = 4,
    alpha: float = 8,
    use_rslora: bool = False,
    has_head: bool = True,
    seed: int = 21,
) -> Path:
    """PEFT's directory (0.21) of random matrices A and B for linears of a model, and perhaps a head."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets:
            sizes = {"A": (rank, module.in_features), "B": (module.out_features, rank)}
            for letter, size in sizes.items():
                tensors[f"{WRAPPED}{name}.lora_{letter}.weight"] = 0.1 * torch.randn(
                    size, generator=generator
                )
    if has_head:
        weight = torch.randn((1, model.config.hidden_size), generator=generator)
        tensors[f"{WRAPPED}score.weight"] = 0.1 * weight
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": use_rslora,
        "target_modules": list(targets),
        "modules_to_save": ["score"],
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def apply_adapter(model: Any, directory: Path) -> None:
    """Put the adapter of a directory into a model with a `score`, and freeze all but it and the head."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors = load_file(directory / "adapter_model.safetensors")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix(WRAPPED).removesuffix(".lora_A.weight")
            before, own = path.rsplit(".", 1)
            parent = model.get_submodule(before)
            b = tensors[name.replace("lora_A", "lora_B")]
            setattr(parent, own, LoraLinear(getattr(parent, own), a, b, scaling))
    model.score.weight.requires_grad_(True)
    if f"{WRAPPED}score.weight" in tensors:
        model.score.weight.data.copy_(tensors[f"{WRAPPED}score.weight"])


def trained_tensors(model: Any) -> dict[str, Tensor]:
    """What is trained, by PEFT's names."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            ending = "" if name.endswith(".weight") else ".weight"
            found[f"{WRAPPED}{name}{ending}"] = parameter.detach()
    return found
