"""Writing adapters in PEFT's form, by all processes that hold parts of them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.base.errors import AgreedError
from modellink_rm.checkpoint.base_reference import BaseReference
from modellink_rm.checkpoint.files import describe_files, files_json
from modellink_rm.checkpoint.hf.directory import CHECKSUMS_FILE
from modellink_rm.checkpoint.hf.gather import is_writer
from modellink_rm.checkpoint.hf.stream import SafetensorsWriter, TensorType
from modellink_rm.checkpoint.peft.directory import BASE_FINGERPRINT, CONFIG_FILE, TENSORS_FILE
from modellink_rm.checkpoint.peft.names import WRAPPED, adapted, stored_tensors
from modellink_rm.model.adapter_targets import shortest_names
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.groups import Ranks

# Of a linear, by (layer, name in the engine): A and B of a process.
_Parts = dict[tuple[int, str], tuple[Tensor, Tensor]]


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
        with SafetensorsWriter(unfinished / TENSORS_FILE, types, notes=notes) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
        written = describe_files(unfinished, [unfinished / TENSORS_FILE])
        (unfinished / CHECKSUMS_FILE).write_bytes(files_json(written))
        config = json.dumps(adapter_config(spec, spec.lora, base=base.path), indent=2)
        (unfinished / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
    torch.distributed.barrier()
    return unfinished


def adapter_config(spec: ModelSpec, lora: Lora, *, base: str) -> dict[str, Any]:
    """adapter_config.json, for peft from 0.9 on."""
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": list(shortest_names(lora, spec.shape)),
        "modules_to_save": [FAMILIES[spec.shape.family].tensors.head],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _whole_tensors(chunks: Sequence[RewardModel], ranks: Ranks, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor of the adapters and the head, on the first process; empty on the others."""
    spec = chunks[0].spec
    holds = ranks.dp_rank == 0 and ranks.cp_rank == 0
    mine = (ranks.tp_rank, _parts_of(chunks)) if holds else None
    gathered: list[tuple[int, _Parts] | None] | None = [None] * ranks.world_size if ranks.rank == 0 else None
    torch.distributed.gather_object(mine, gathered)
    heads: list[Tensor | None] | None = [None] * ranks.world_size if ranks.rank == 0 else None
    has_head = chunks[-1].post_process and is_writer(ranks)
    torch.distributed.gather_object(chunks[-1].rm_head.weight.detach().cpu() if has_head else None, heads)
    if gathered is None or heads is None:
        return {}
    parts = sorted((part for part in gathered if part is not None), key=lambda part: part[0])
    found: dict[str, Tensor] = {}
    for linear in adapted(spec):
        place = linear.layer, linear.entry.engine
        found |= stored_tensors(linear, [held[place] for _, held in parts if place in held])
    found = {name: tensor.to(dtype) for name, tensor in found.items()}
    (head,) = (head for head in heads if head is not None)
    return found | {f"{WRAPPED}{FAMILIES[spec.shape.family].tensors.head_name}": head.float()}


def _parts_of(chunks: Sequence[RewardModel]) -> _Parts:
    """This process's A and B on the host."""
    found: _Parts = {}
    for chunk in chunks:
        for linear in adapted(chunk.spec):
            layer = chunk.layer(linear.layer)
            if layer is not None:
                adapter: Any = layer.get_submodule(f"{linear.entry.engine}.adapter")
                found[linear.layer, linear.entry.engine] = (
                    adapter.a.detach().cpu(),
                    adapter.b.detach().cpu(),
                )
    return found
