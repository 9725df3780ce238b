"""Writing the weights of a divided model as a Hugging Face directory.

The tables that read a directory write it: a plan tells which rows and columns of which stored tensors
a rank's tensor holds. No process holds more than a file of tensors: a tensor's parts are gathered over
tensor parallelism one at a time, and each pipeline stage writes files of its own.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import replace_directory
from modellink_rm.checkpoint.files import describe_files, files_json
from modellink_rm.checkpoint.hf.directory import (
    CHECKSUMS_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    VALUE_HEAD_BIAS,
    VALUE_HEAD_FILE,
    VALUE_HEAD_WEIGHT,
)
from modellink_rm.checkpoint.hf.gather import (
    gathered,
    is_writer,
    plans_of,
    takes_part,
    tensors_of_stage,
)
from modellink_rm.checkpoint.hf.mappings import TensorPlan, stored_shapes
from modellink_rm.model.families.registry import FAMILIES, shape_from_config
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import HEAD_PREFIX, ModelSpec
from modellink_rm.parallel.groups import Ranks

DEFAULT_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class _File:
    """A file of tensors: those of the engine that it stores, or none for the head alone."""

    engine_names: tuple[str, ...]
    tensor_names: tuple[str, ...]
    num_bytes: int


def check_writable_model(spec: ModelSpec, config: Mapping[str, Any]) -> None:
    """Check that transformers has a class for the model, and that `config` describes it.

    Args:
        config: the base model's config.json, which is written beside the weights.

    Raises:
        UserError: its scores are read before the final norm, which no class of transformers does, or it was
            trained with other numbers than those of `config`.
    """
    if not spec.post_layer_norm:
        raise UserError(
            "a model trained with --no-post-layer-norm cannot be written as a Hugging Face directory: its "
            "scores are read before the final norm, and transformers reads them after it"
        )
    described = dataclasses.replace(spec, shape=shape_from_config(config)).without_router_losses().shape
    trained = spec.without_router_losses().shape
    differences = [
        f"{field.name} {getattr(trained, field.name)} instead of {getattr(described, field.name)}"
        for field in dataclasses.fields(described)
        if getattr(trained, field.name) != getattr(described, field.name)
    ]
    if differences:
        raise UserError(
            f"a model trained with {', '.join(differences)} of its base model's config.json cannot be "
            "written as a Hugging Face directory: that config.json would describe another model"
        )


@torch.no_grad()
def write_hugging_face(
    directory: Path,
    chunks: Sequence[RewardModel],
    config: Mapping[str, Any],
    ranks: Ranks,
    *,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write `directory`, which appears only when it is complete; a collective over all processes.

    Args:
        chunks: this process's stage, or its virtual stages.
        config: the base model's config.json.
        files: other small files to write, by name: the tokenizer's.
        max_shard_bytes: of tensors in one file; a larger tensor has a file of its own.

    Raises:
        UserError: there is something at `directory`, or the model has no form in transformers or is another
            one than `config` describes.
    """
    spec = chunks[0].spec
    check_writable_model(spec, config)
    unfinished = directory.with_name(directory.name + ".tmp")
    if directory.exists():
        raise UserError(f"{directory} is there already; give a name that is not")
    torch.distributed.barrier()  # every process has looked
    if ranks.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    torch.distributed.barrier()
    parameters = tensors_of_stage(chunks)
    mine = _plan_files(spec, parameters, max_shard_bytes)
    all_files = _files_of_stages(mine, ranks)
    names = _file_names([file for stage in all_files for file in stage])
    if takes_part(ranks):
        first = sum(len(stage) for stage in all_files[: ranks.pp_rank])
        for number, file in enumerate(mine):
            tensors = dict(_tensors_of(file, spec, parameters, ranks))
            if is_writer(ranks):
                save_file(tensors, unfinished / names[first + number], metadata={"format": "pt"})
    value_head = _value_head(parameters)
    if ranks.reports_scores and ranks.dp_rank == 0 and value_head:
        save_file(value_head, unfinished / VALUE_HEAD_FILE, metadata={"format": "pt"})
    torch.distributed.barrier()
    if ranks.rank == 0:
        written = describe_files(unfinished, unfinished.glob("*.safetensors"))
        (unfinished / CHECKSUMS_FILE).write_bytes(files_json(written))
        _write_small_files(
            unfinished, names, all_files, _written_config(config, spec, parameters), files or {}
        )
        replace_directory(unfinished, directory)
    torch.distributed.barrier()


def _plan_files(
    spec: ModelSpec, parameters: Mapping[str, Tensor | None], max_shard_bytes: int
) -> list[_File]:
    """The files of this process's stage, in the order of its parameters."""
    table = FAMILIES[spec.shape.family].tensors
    items: list[_File] = []
    for name, parameter in parameters.items():
        if not name.startswith(HEAD_PREFIX):
            shapes = stored_shapes(name, spec.shape, table)
            num_numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
            num_bytes = num_numbers * _dtype_of(parameters).itemsize
            items.append(_File((name,), tuple(shapes), num_bytes))
        elif parameter is not None and name == f"{HEAD_PREFIX}weight" and not _value_head(parameters):
            items.append(_File((name,), (table.head_name,), parameter.numel() * parameter.element_size()))
    files: list[_File] = []
    for item in items:
        if files and files[-1].num_bytes + item.num_bytes <= max_shard_bytes:
            last = files.pop()
            item = _File(
                last.engine_names + item.engine_names,
                last.tensor_names + item.tensor_names,
                last.num_bytes + item.num_bytes,
            )
        files.append(item)
    return files


def _files_of_stages(mine: list[_File], ranks: Ranks) -> list[list[_File]]:
    """Every pipeline stage's files, in the order of the stages."""
    gathered: list[tuple[int, list[_File]]] = [(0, [])] * ranks.world_size
    torch.distributed.all_gather_object(gathered, (ranks.pp_rank, mine))
    by_stage = dict(gathered)
    return [by_stage[stage] for stage in range(ranks.pp_size)]


def _file_names(files: Sequence[_File]) -> list[str]:
    """As transformers names them."""
    if len(files) == 1:
        return [SINGLE_FILE]
    return [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]


def _tensors_of(
    file: _File, spec: ModelSpec, parameters: Mapping[str, Tensor | None], ranks: Ranks
) -> Iterator[tuple[str, Tensor]]:
    """The pairs (name, tensor on the host) of a file, on the writer; the others send it their parts."""
    table = FAMILIES[spec.shape.family].tensors
    for name in file.engine_names:
        if name.startswith(HEAD_PREFIX):
            head = parameters[name]
            assert head is not None
            yield table.head_name, head.detach().cpu().clone()
            continue
        plans = plans_of(name, spec, ranks)
        parts = gathered(name, parameters, plans, spec, ranks)
        if is_writer(ranks):
            yield from _joined(stored_shapes(name, spec.shape, table), plans, parts).items()


def _joined(
    shapes: Mapping[str, tuple[int, ...]], plans: Sequence[TensorPlan], parts: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The stored tensors, assembled from the ranks' parts: the inverse of reading them."""
    tensors = {name: torch.empty(shape, dtype=parts[0].dtype) for name, shape in shapes.items()}
    for plan, part in zip(plans, parts, strict=False):  # a tensor that is whole on every rank has one part
        row = 0
        for piece in plan.pieces:
            stop = row + piece.stop - piece.start
            rows = tensors[piece.name][piece.start : piece.stop]
            (rows if plan.columns is None else rows[:, slice(*plan.columns)]).copy_(part[row:stop])
            row = stop
    return tensors


def _dtype_of(parameters: Mapping[str, Tensor | None]) -> torch.dtype:
    """The dtype of a stage's tensors without the head."""
    return next(
        tensor.dtype
        for name, tensor in parameters.items()
        if tensor is not None and not name.startswith(HEAD_PREFIX)
    )


def _value_head(parameters: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """A head with a bias in LLaMA-Factory's form, because transformers' `score` has no bias; else empty."""
    bias, weight = parameters.get(f"{HEAD_PREFIX}bias"), parameters.get(f"{HEAD_PREFIX}weight")
    if bias is None or weight is None:
        return {}
    return {
        VALUE_HEAD_WEIGHT: weight.detach().cpu().clone(),
        VALUE_HEAD_BIAS: bias.detach().cpu().clone(),
    }


def _written_config(
    config: Mapping[str, Any], spec: ModelSpec, parameters: Mapping[str, Tensor | None]
) -> dict[str, Any]:
    """The base model's config.json, with one label and the dtype of what is written."""
    written = dict(config)
    dtype = _dtype_of(parameters)
    for name in ("dtype", "torch_dtype"):
        if name in written:
            written[name] = str(dtype).removeprefix("torch.")
    written |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}  # transformers' form of one label
    classifier = FAMILIES[spec.shape.family].classifier
    return {**written, "architectures": [classifier]} if classifier and not spec.head_bias else written


def _write_small_files(
    directory: Path,
    names: Sequence[str],
    stages: Sequence[Sequence[_File]],
    config: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> None:
    all_files = [file for stage in stages for file in stage]
    if len(all_files) > 1:
        pairs = zip(names, all_files, strict=True)
        weight_map = {tensor: name for name, file in pairs for tensor in file.tensor_names}
        metadata = {"total_size": sum(file.num_bytes for file in all_files)}
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    (directory / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
