"""LoRA as PEFT has it: its directory of a random adapter, and its formula in a model of transformers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

WRAPPED = "base_model.model."
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
# Parameters of all experts, in the order in which PEFT wraps the module that has them.
EXPERTS = ("gate_up_proj", "down_proj")


class LoraLinear(nn.Module):
    """W x + alpha / r B A x (Hu et al. 2021, arXiv 2106.09685, section 4.1)."""

    def __init__(self, linear: nn.Linear, a: Tensor, b: Tensor, scaling: float) -> None:
        super().__init__()
        self.linear, self.scaling = linear, scaling
        self.lora_A = nn.Parameter(a.clone())
        self.lora_B = nn.Parameter(b.clone())

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states) + states @ self.lora_A.T @ self.lora_B.T * self.scaling


class LoraExperts(nn.Module):
    """W_e + alpha / r B_e A_e of each expert, of parameters [experts, out, in] or [experts, in, out].

    The einsum is that of peft 0.21, tuners/lora/layer.py, `ParamWrapper.get_delta_weight`.
    """

    def __init__(self, a: Tensor, b: Tensor, scaling: float, *, is_transposed: bool) -> None:
        super().__init__()
        self.scaling, self.is_transposed = scaling, is_transposed
        self.lora_A = nn.Parameter(a.clone())  # [experts * r, in]
        self.lora_B = nn.Parameter(b.clone())  # [out, r * experts]

    def forward(self, weight: Tensor) -> Tensor:
        a = self.lora_A.view(len(weight), -1, self.lora_A.shape[1])
        b = self.lora_B.view(len(self.lora_B), -1, len(weight))
        delta = torch.einsum("ore,eri->eio" if self.is_transposed else "ore,eri->eoi", b, a)
        return weight + self.scaling * delta


def wrappers(experts: Sequence[str], module: str) -> dict[str, str]:
    """PEFT's wrapper of each parameter of a module: the last one is named as the module."""
    own = [name for name in EXPERTS if name in experts]
    return {name: module + ".base_layer" * (len(own) - 1 - number) for number, name in enumerate(own)}


def is_transposed(module: nn.Module) -> bool:
    """Whether a module of experts has the inputs before the outputs, as gpt-oss."""
    return bool(getattr(module, "is_transposed", False))


def write_adapter(
    model: Any,
    directory: Path,
    *,
    targets: Sequence[str] = ALL_LINEAR,
    experts: Sequence[str] = (),
    rank: int = 4,
    alpha: float = 8,
    use_rslora: bool = False,
    has_head: bool = True,
    seed: int = 21,
) -> Path:
    """PEFT's directory (0.21) of random matrices A and B for linears of a model, and perhaps a head.

    Args:
        experts: parameters of the model's experts that have some too.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets:
            sizes = {"A": (rank, module.in_features), "B": (module.out_features, rank)}
            for letter, size in sizes.items():
                tensors[f"{WRAPPED}{name}.lora_{letter}.weight"] = 0.1 * torch.randn(
                    size, generator=generator
                )
        if name.endswith("mlp.experts"):
            for own, wrapper in wrappers(experts, name).items():
                number, *size = getattr(module, own).shape
                size = size[::-1] if is_transposed(module) else size
                sizes = {"A": (number * rank, size[1]), "B": (size[0], rank * number)}
                for letter, shape in sizes.items():
                    tensors[f"{WRAPPED}{wrapper}.lora_{letter}.weight"] = 0.1 * torch.randn(
                        shape, generator=generator
                    )
    if has_head:
        weight = torch.randn((1, model.config.hidden_size), generator=generator)
        tensors[f"{WRAPPED}score.weight"] = 0.1 * weight
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if has_head else "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": use_rslora,
        "target_modules": list(targets),
        "target_parameters": [f"mlp.experts.{name}" for name in experts],
        "modules_to_save": ["score"] if has_head else None,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


def apply_adapter(model: Any, directory: Path) -> None:
    """Put the adapter of a directory into a model, and freeze all but it and the model's `score`, if any."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors = load_file(directory / "adapter_model.safetensors")
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    own_experts = [name.rsplit(".", 1)[-1] for name in config.get("target_parameters", ())]
    for path, module in list(model.named_modules()):
        names = wrappers(own_experts, path) if path.endswith("mlp.experts") else {}
        for own, wrapper in names.items():
            a, b = (tensors.pop(f"{WRAPPED}{wrapper}.lora_{letter}.weight") for letter in "AB")
            update = LoraExperts(a, b, scaling, is_transposed=is_transposed(module))
            parametrize.register_parametrization(module, own, update)
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix(WRAPPED).removesuffix(".lora_A.weight")
            before, own = path.rsplit(".", 1)
            parent = model.get_submodule(before)
            b = tensors[name.replace("lora_A", "lora_B")]
            setattr(parent, own, LoraLinear(getattr(parent, own), a, b, scaling))
    if not hasattr(model, "score"):
        return
    for name, parameter in model.score.named_parameters():
        parameter.requires_grad_(True)
        if f"{WRAPPED}score.{name}" in tensors:
            parameter.data.copy_(tensors[f"{WRAPPED}score.{name}"])


def trained_tensors(model: Any) -> dict[str, Tensor]:
    """What is trained, by PEFT's names."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = name.removesuffix(".weight")
            if ".parametrizations." in name:
                module, rest = name.split(".parametrizations.")
                own, _, letter = rest.split(".")
                name = f"{wrappers(list(model.get_submodule(module).parametrizations), module)[own]}.{letter}"
            found[f"{WRAPPED}{name}.weight"] = parameter.detach()
    return found
