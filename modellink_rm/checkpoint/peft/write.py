"""Writing adapters in PEFT's form, by all processes that hold parts of them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from megatron.core import parallel_state
from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import AgreedError
from modellink_rm.base.files import write_whole
from modellink_rm.checkpoint.base_reference import BaseReference
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, describe_files, files_json
from modellink_rm.checkpoint.hf.gather import is_writer
from modellink_rm.checkpoint.hf.stream import SafetensorsWriter, TensorType
from modellink_rm.checkpoint.peft.directory import (
    BASE_FINGERPRINT,
    BASE_QUANTIZATION,
    CONFIG_FILE,
    TENSORS_FILE,
)
from modellink_rm.checkpoint.peft.experts import adapted_experts
from modellink_rm.checkpoint.peft.names import WRAPPED, adapted, head_names, peft_targets, stored_tensors
from modellink_rm.model.adapter_targets import is_of_experts
from modellink_rm.model.adapting import adapted_linears, module_of
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.groups import Ranks

# Of a matrix, by (layer, name in the engine): A and B of a process.
_Parts = dict[tuple[int, str], tuple[Tensor, Tensor]]
_Of = TypeVar("_Of")


@torch.no_grad()
def write_unfinished_adapter(
    directory: Path,
    chunks: Sequence[RewardModel],
    ranks: Ranks,
    *,
    dtype: torch.dtype,
    base: BaseReference,
    files: Mapping[str, bytes],
) -> Path:
    """Write everything of `directory` under a temporary name beside it; a collective over all processes.

    Args:
        chunks: this process's stage, or its virtual stages.
        dtype: of the adapters; the head is in float32.
        base: the model that they update.
        files: other small files to write, by name.

    Returns:
        The temporary name, for `finish`.

    Raises:
        AgreedError: there is something at `directory`.
    """
    unfinished = directory.with_name(directory.name + ".tmp")
    if directory.exists():
        raise AgreedError(f"{directory} is there already; give a name that is not")
    torch.distributed.barrier()  # every process has looked
    tensors = _whole_tensors(chunks, ranks, dtype)
    if ranks.rank == 0:
        spec = chunks[0].spec
        assert spec.lora is not None
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        types = {name: TensorType(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        notes = {BASE_FINGERPRINT: base.fingerprint}
        if spec.lora.quantization:
            notes[BASE_QUANTIZATION] = spec.lora.quantization
        with SafetensorsWriter(unfinished / TENSORS_FILE, types, notes=notes) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
        config = json.dumps(adapter_config(spec, spec.lora, base=base.path), indent=2)
        write_whole(unfinished / CONFIG_FILE, f"{config}\n".encode())
        for name, content in files.items():
            write_whole(unfinished / name, content)
        written = describe_files(unfinished, [unfinished / TENSORS_FILE, *unfinished.glob(CONTRACT_NAME)])
        write_whole(unfinished / CHECKSUMS_FILE, files_json(written))
    torch.distributed.barrier()
    return unfinished


def adapter_config(spec: ModelSpec, lora: Lora, *, base: str) -> dict[str, Any]:
    """adapter_config.json, for peft from 0.9 on; with `target_parameters`, for 0.21 and transformers 5."""
    modules, parameters = peft_targets(lora, spec.shape)
    config = {
        "peft_type": "LORA",
        "task_type": "TOKEN_CLS" if spec.scores_steps else "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        # peft refuses dropout where it updates parameters; what is opened to score has none.
        "lora_dropout": 0.0 if parameters else lora.dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": modules,
        "modules_to_save": [head_names(spec)[0].rsplit(".", 1)[0]],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    return config | ({"target_parameters": parameters} if parameters else {})


def _whole_tensors(chunks: Sequence[RewardModel], ranks: Ranks, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of the adapters and the head, on the first process; empty on the others."""
    spec = chunks[0].spec
    held = _gathered(_held(chunks, ranks), ranks)
    has_head = chunks[-1].post_process and is_writer(ranks)
    heads = _gathered(_head_of(chunks[-1]) if has_head else None, ranks)
    if ranks.rank:
        return {}
    found: dict[str, Tensor] = {}
    for linear in adapted(spec):
        place = linear.layer, linear.entry.engine
        parts = sorted((one for one in held if place in one.linears), key=lambda one: one.tp_rank)
        found |= stored_tensors(linear, [one.linears[place] for one in parts])
    for experts in adapted_experts(spec):
        place = experts.layer, experts.entry.engine
        found |= experts.stored_tensors(
            {one.expert_ranks: one.experts[place] for one in held if place in one.experts}
        )
    (head,) = heads
    return {name: tensor.to(dtype) for name, tensor in found.items()} | {
        f"{WRAPPED}{name}": tensor for name, tensor in zip(head_names(spec), head, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A process's A and B on the host; of what other processes have too, those of one process.

    Attributes:
        expert_ranks: (expert parallel, expert tensor parallel).
        linears: those of linears.
        experts: those of experts.
    """

    tp_rank: int
    expert_ranks: tuple[int, int]
    linears: _Parts
    experts: _Parts


def _held(chunks: Sequence[RewardModel], ranks: Ranks) -> _Held:
    is_first_replica = ranks.dp_rank == 0 and ranks.cp_rank == 0
    is_first_of_experts = parallel_state.get_expert_data_parallel_rank() == 0
    linears: _Parts = {}
    experts: _Parts = {}
    for chunk in chunks:
        for number, entry in adapted_linears(chunk.spec):
            of_experts = is_of_experts(entry)
            layer = chunk.layer(number)
            if layer is None or not (is_first_of_experts if of_experts else is_first_replica):
                continue
            adapter = module_of(entry, layer).adapter
            assert adapter is not None
            parts = adapter.a.detach().cpu(), adapter.b.detach().cpu()
            (experts if of_experts else linears)[number, entry.engine] = parts
    return _Held(
        tp_rank=ranks.tp_rank, expert_ranks=(ranks.ep_rank, ranks.etp_rank), linears=linears, experts=experts
    )


def _head_of(chunk: RewardModel) -> list[Tensor]:
    """The head's weight, and its bias if it has one, in float32 on the host."""
    tensors = (chunk.rm_head.weight, chunk.rm_head.bias)
    return [tensor.detach().float().cpu() for tensor in tensors if tensor is not None]


def _gathered(value: _Of | None, ranks: Ranks) -> list[_Of]:
    """The values of all processes that have one, on the first process; a collective."""
    values: list[_Of | None] | None = [None] * ranks.world_size if ranks.rank == 0 else None
    torch.distributed.gather_object(value, values)
    return [one for one in values or () if one is not None]
