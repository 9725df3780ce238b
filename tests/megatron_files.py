"""Checkpoints as ModelLink 1.0 and Megatron-LM write them: a torch file for each rank."""

import argparse
import random
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.enums import ModelType
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.engine_tensors import engine_tensors_of

# ModelLink's names without megatron-core (its tasks/checkpoint/models.py, MegatronLegacyModel).
_LEGACY = (
    ("embedding.word_embeddings.", "language_model.embedding.word_embeddings."),
    ("decoder.final_layernorm.", "language_model.encoder.final_norm."),
    ("output_layer.", "language_model.output_layer."),
    ("decoder.layers.", "language_model.encoder.layers."),
    (".input_layernorm.", ".input_norm."),
    (".self_attention.linear_qkv.", ".self_attention.query_key_value."),
    (".self_attention.linear_proj.", ".self_attention.dense."),
    (".pre_mlp_layernorm.", ".post_attention_norm."),
    (".mlp.linear_fc1.", ".mlp.dense_h_to_4h."),
    (".mlp.linear_fc2.", ".mlp.dense_4h_to_h."),
)


def write_megatron_checkpoint(
    directory: Path,
    model: PreTrainedModel,
    *,
    base_model: Path,
    legacy_names: bool = False,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    head: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint of iteration 5, with arguments, an optimizer's state and those of random generators.

    Args:
        base_model: whose value_head.safetensors is the reward head, if there is one.
    """
    tensors = engine_tensors_of(model)
    tensors["output_layer.weight"] = torch.randn(384, model.config.hidden_size)
    if head:
        stored = load_file(base_model / "value_head.safetensors")
        tensors["rm_head.weight"] = stored["v_head.summary.weight"]
        tensors["rm_head.bias"] = stored["v_head.summary.bias"]
    flags = argparse.Namespace(**{**_arguments(model, tp=tp, pp=pp), **(arguments or {})})
    if flags.no_post_layer_norm is True:  # the engine then has no such module
        tensors = {name: tensor for name, tensor in tensors.items() if "final_layernorm" not in name}
    for stage in range(pp):
        for rank in range(tp):
            chunks = [
                _nested(_of_rank(_of_chunk(tensors, model, stage, chunk, pp, vpp), rank, tp), legacy_names)
                for chunk in range(vpp)
            ]
            models = {"model": chunks[0]} if vpp == 1 else {f"model{i}": one for i, one in enumerate(chunks)}
            path = directory / "iter_0000005" / (f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pp > 1 else ""))
            path.mkdir(parents=True)
            torch.save({"args": flags, **models, **_states()}, path / "model_optim_rng.pt")
    (directory / "latest_checkpointed_iteration.txt").write_text("5")
    return directory


def _arguments(model: PreTrainedModel, *, tp: int, pp: int) -> dict[str, Any]:
    """Flags, and values that are objects of Megatron-LM, numpy and torch."""
    config = model.config
    return {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "group_query_attention": True,
        "num_query_groups": config.num_key_value_heads,
        "kv_channels": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "norm_epsilon": config.rms_norm_eps,
        "rotary_base": 10000,
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "num_experts": None,
        "no_post_layer_norm": False,
        "prompt_type": "llama2",
        "model_type": ModelType.encoder_or_decoder,
        "params_dtype": torch.float32,
        "iteration": np.int64(5),
    }


def _states() -> dict[str, Any]:
    return {
        "iteration": 5,
        "checkpoint_version": 3.0,
        "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
        "rng_state": [
            {
                "random_rng_state": random.getstate(),
                "np_rng_state": np.random.get_state(),
                "torch_rng_state": torch.get_rng_state(),
            }
        ],
    }


def _of_chunk(
    tensors: Mapping[str, Tensor], model: PreTrainedModel, stage: int, chunk: int, pp: int, vpp: int
) -> dict[str, Tensor]:
    """The tensors of a stage's chunk, with layers numbered from 0."""
    number = chunk * pp + stage
    size = model.config.num_hidden_layers // (pp * vpp)
    found = {}
    for name, tensor in tensors.items():
        if name.startswith("decoder.layers."):
            layer, rest = name.removeprefix("decoder.layers.").split(".", 1)
            if int(layer) // size == number:
                found[f"decoder.layers.{int(layer) % size}.{rest}"] = tensor
        elif (number == 0) if name.startswith("embedding") else (number == pp * vpp - 1):
            found[name] = tensor
    return found


def _of_rank(tensors: Mapping[str, Tensor], rank: int, tp: int) -> dict[str, Tensor]:
    """A tensor-parallel rank's parts."""
    parts = {}
    for name, tensor in tensors.items():
        if "layernorm" in name or name == "rm_head.bias":
            part = tensor
        elif name.endswith(("linear_proj.weight", "linear_fc2.weight", "rm_head.weight")):
            part = tensor.chunk(tp, dim=1)[rank]
        elif name.endswith("linear_fc1.weight"):
            part = torch.cat([half.chunk(tp)[rank] for half in tensor.chunk(2)])
        else:
            part = tensor.chunk(tp)[rank]
        parts[name] = part.clone()
    return parts


def _nested(tensors: Mapping[str, Tensor], legacy_names: bool) -> dict[str, Any]:
    """The dictionary of a model; without megatron-core it has one for each part."""
    if not legacy_names:
        return {**tensors, "decoder.layers.0.mlp.linear_fc1._extra_state": None}
    model: dict[str, Any] = {}
    for name, tensor in tensors.items():
        for new, old in _LEGACY:
            name = name.replace(new, old)
        part, inside = model, name
        for key in ("language_model", "embedding", "word_embeddings", "encoder", "output_layer"):
            if inside.startswith(f"{key}."):
                part, inside = part.setdefault(key, {}), inside.removeprefix(f"{key}.")
        part[inside] = tensor
    return model


class SavedOnNpu:
    """A tensor as torch_npu pickles it; `module` stands for torch_npu while it is written."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        tensor = self._tensor
        typed = torch.storage.TypedStorage(
            wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
        )
        rebuild = sys.modules["torch_npu.utils.storage"]._rebuild_npu_tensor
        return rebuild, (typed, tensor.storage_offset(), tensor.size(), tensor.stride(), False, {}, True)


def torch_npu_modules() -> dict[str, types.ModuleType]:
    """Modules for sys.modules under which torch_npu's function can be named."""

    def _rebuild_npu_tensor(*arguments: Any) -> None:
        raise AssertionError("this is torch_npu's code")

    module = types.ModuleType("torch_npu.utils.storage")
    _rebuild_npu_tensor.__module__ = module.__name__
    _rebuild_npu_tensor.__qualname__ = "_rebuild_npu_tensor"
    module._rebuild_npu_tensor = _rebuild_npu_tensor  # type: ignore[attr-defined]
    return dict.fromkeys(("torch_npu", "torch_npu.utils", module.__name__), module)
