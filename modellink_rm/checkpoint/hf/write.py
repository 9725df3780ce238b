"""Writing the weights of a divided model as a Hugging Face directory.

The tables that read a directory write it: a plan tells which rows and columns of which stored tensors
a rank's tensor holds. No process holds more than its share and one tensor: a tensor's parts are gathered over
tensor parallelism one at a time and written at once, and each pipeline stage writes files of its own.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.files import name_directory, write_whole
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, describe_files, files_json
from modellink_rm.checkpoint.hf.contents import Contents
from modellink_rm.checkpoint.hf.directory import INDEX_FILE, SINGLE_FILE
from modellink_rm.checkpoint.hf.gather import (
    gathered,
    is_writer,
    plans_of,
    takes_part,
    tensors_of_stage,
)
from modellink_rm.checkpoint.hf.mappings import TensorPlan, stored_shapes
from modellink_rm.checkpoint.hf.slices import write_piece
from modellink_rm.checkpoint.hf.stream import SafetensorsWriter, TensorType
from modellink_rm.model.families.registry import tensors_of
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import HEAD_PREFIX, LM_HEAD, ModelSpec
from modellink_rm.parallel.groups import Ranks


@dataclass(frozen=True)
class _Item:
    """One of the engine's tensors, or those of all experts, as the tensors that store it."""

    engine_names: tuple[str, ...]
    types: Mapping[str, TensorType]

    @property
    def num_bytes(self) -> int:
        return sum(kind.num_bytes for kind in self.types.values())


@dataclass(frozen=True)
class _File:
    """A file of tensors; one with a name of its own is not among the numbered ones, nor in the index."""

    items: tuple[_Item, ...]
    own_name: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)

    @property
    def types(self) -> dict[str, TensorType]:
        return {name: kind for item in self.items for name, kind in item.types.items()}


@torch.no_grad()
def write_unfinished(
    directory: Path, chunks: Sequence[RewardModel], contents: Contents, ranks: Ranks
) -> Path:
    """Write everything of `directory` under a temporary name beside it; a collective over all processes.

    Args:
        chunks: this process's stage, or its virtual stages.

    Returns:
        The temporary name, for `finish`.

    Raises:
        AgreedError: there is something at `directory`.
    """
    unfinished = directory.with_name(directory.name + ".tmp")
    if directory.exists():
        raise AgreedError(f"{directory} is there already; give a name that is not")
    torch.distributed.barrier()  # every process has looked
    if ranks.rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    torch.distributed.barrier()
    spec = _written_spec(chunks[0].spec, contents)
    parameters = tensors_of_stage(chunks)
    mine = _plan_files(spec, parameters, contents)
    all_files = _files_of_stages(mine, ranks)
    names = _file_names([file for stage in all_files for file in stage])
    if takes_part(ranks):
        first = sum(len(stage) for stage in all_files[: ranks.pp_rank])
        for number, file in enumerate(mine, start=first):
            _write_file(unfinished / names[number], file, spec, parameters, contents, ranks)
    torch.distributed.barrier()
    if ranks.rank == 0:
        _write_small_files(unfinished, names, [file for stage in all_files for file in stage], contents)
        listed = [*unfinished.glob("*.safetensors"), *unfinished.glob(CONTRACT_NAME)]
        checksums = files_json(describe_files(unfinished, listed), checkpoint=contents.checkpoint)
        write_whole(unfinished / CHECKSUMS_FILE, checksums)
        config = json.dumps(contents.config(chunks[0].spec), indent=2, ensure_ascii=False)
        write_whole(unfinished / "config.json", f"{config}\n".encode())
    torch.distributed.barrier()
    return unfinished


def finish(
    unfinished: Path,
    directory: Path,
    ranks: Ranks,
    *,
    check: Callable[[Path], None] = lambda unfinished: None,
) -> None:
    """Give what `write_unfinished` wrote its name, once `check` passes it on the first process; a collective.

    Raises:
        AgreedError: `check` raised a UserError, or something has that name, and nothing is left of what
            was written.
    """
    failure: list[str | None] = [None]
    if ranks.rank == 0:
        try:
            check(unfinished)
            name_directory(unfinished, directory)
        except UserError as error:
            failure[0] = str(error)
            shutil.rmtree(unfinished, ignore_errors=True)
    torch.distributed.broadcast_object_list(failure)
    if failure[0] is not None:
        raise AgreedError(failure[0])


def _written_spec(spec: ModelSpec, contents: Contents) -> ModelSpec:
    """The model with the rows that are added to its embedding, which the engine's padding holds."""
    rows = spec.shape.vocab_size + contents.added_rows
    assert rows <= spec.padded_vocab_size, f"{rows} rows of an embedding of {spec.padded_vocab_size}"
    return dataclasses.replace(spec, shape=dataclasses.replace(spec.shape, vocab_size=rows))


def _plan_files(spec: ModelSpec, parameters: Mapping[str, Tensor | None], contents: Contents) -> list[_File]:
    """The files of this process's stage, in the order of its parameters."""
    table = tensors_of(spec)
    # A stored tensor that holds those of all experts is written at once.
    by_stored: dict[tuple[str, ...], list[str]] = {}
    for name in parameters:
        is_copy = spec.ties_embedding and name.startswith(LM_HEAD)  # of the first stage's embedding
        if not name.startswith(HEAD_PREFIX) and not is_copy:
            by_stored.setdefault(tuple(stored_shapes(name, spec.shape, table)), []).append(name)
    files: list[_File] = []
    for names in by_stored.values():
        shapes = stored_shapes(names[0], spec.shape, table)
        types = {stored: TensorType(shape, contents.dtype) for stored, shape in shapes.items()}
        _add_item(files, _Item(tuple(names), types), contents.max_shard_bytes)
    head = _head_item(parameters, spec, contents)
    if head is not None and contents.form.head_file:
        files.append(_File((head,), contents.form.head_file))
    elif head is not None:
        _add_item(files, head, contents.max_shard_bytes)
    return files


def _add_item(files: list[_File], item: _Item, max_bytes: int) -> None:
    """Put a tensor into the last file, or into a new one where that is full."""
    if files and files[-1].num_bytes + item.num_bytes <= max_bytes:
        files.append(_File((*files.pop().items, item)))
    else:
        files.append(_File((item,)))


def _head_item(parameters: Mapping[str, Tensor | None], spec: ModelSpec, contents: Contents) -> _Item | None:
    """The head, on the last stage."""
    tensors = _head_tensors(parameters, spec, contents)
    if not tensors:
        return None
    types = {name: TensorType(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return _Item((HEAD_PREFIX,), types)


def _head_tensors(
    parameters: Mapping[str, Tensor | None], spec: ModelSpec, contents: Contents
) -> dict[str, Tensor]:
    """The head on the host, in the dtype of the weights where that rounds nothing."""
    names = contents.form.head_names(spec.shape.family)
    weight = parameters.get(f"{HEAD_PREFIX}weight")
    if weight is None:
        return {}
    mean, std = (0.0, 1.0) if contents.merged is None else (contents.merged.mean, contents.merged.std)
    tensors = {names.weight: (weight.detach().double() / std).float().cpu()}
    if names.bias:  # programs that look for one would draw it
        bias = parameters.get(f"{HEAD_PREFIX}bias")
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        tensors[names.bias] = ((bias.detach().double() - mean) / std).float().cpu()
    is_exact = all(torch.equal(one.to(contents.dtype).float(), one) for one in tensors.values())
    return {name: one.to(contents.dtype) for name, one in tensors.items()} if is_exact else tensors


def _files_of_stages(mine: list[_File], ranks: Ranks) -> list[list[_File]]:
    """Every pipeline stage's files, in the order of the stages."""
    gathered: list[tuple[int, list[_File]]] = [(0, [])] * ranks.world_size
    torch.distributed.all_gather_object(gathered, (ranks.pp_rank, mine))
    by_stage = dict(gathered)
    return [by_stage[stage] for stage in range(ranks.pp_size)]


def _file_names(files: Sequence[_File]) -> list[str]:
    """As transformers names them."""
    total = sum(not file.own_name for file in files)
    names: list[str] = []
    number = 0
    for file in files:
        number += not file.own_name
        numbered = SINGLE_FILE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
        names.append(file.own_name or numbered)
    return names


def _write_file(
    path: Path,
    file: _File,
    spec: ModelSpec,
    parameters: Mapping[str, Tensor | None],
    contents: Contents,
    ranks: Ranks,
) -> None:
    """Write a file on the stage's writer; the others send it their parts."""
    if not is_writer(ranks):
        for item in file.items:
            for _ in _tensors_of(item, spec, parameters, contents, ranks):
                raise AssertionError("only the writer has whole tensors")
        return
    with SafetensorsWriter(path, file.types) as writer:
        for item in file.items:
            for name, tensor in _tensors_of(item, spec, parameters, contents, ranks):
                writer.write(name, tensor)


def _tensors_of(
    item: _Item, spec: ModelSpec, parameters: Mapping[str, Tensor | None], contents: Contents, ranks: Ranks
) -> Iterator[tuple[str, Tensor]]:
    """The pairs (name, tensor on the host), on the stage's writer."""
    if item.engine_names == (HEAD_PREFIX,):
        if is_writer(ranks):
            yield from _head_tensors(parameters, spec, contents).items()
        return
    tensors: dict[str, Tensor] = {}
    for engine_name in item.engine_names:
        plans = plans_of(engine_name, spec, ranks)
        parts = gathered(engine_name, parameters, plans, spec, ranks)
        if is_writer(ranks):
            tensors = tensors or {
                name: torch.empty(kind.shape, dtype=parts[0].dtype) for name, kind in item.types.items()
            }
            _put_parts(tensors, plans, parts)
    yield from tensors.items()


def _put_parts(tensors: Mapping[str, Tensor], plans: Sequence[TensorPlan], parts: Sequence[Tensor]) -> None:
    """Write the ranks' parts into the stored tensors: the inverse of reading them."""
    for plan, part in zip(plans, parts, strict=False):  # a tensor that is whole on every rank has one part
        row = 0
        for piece in plan.pieces:
            stop = row + piece.stop - piece.start
            write_piece(tensors[piece.name], plan, piece, part[row:stop])
            row = stop


def _write_small_files(
    directory: Path, names: Sequence[str], files: Sequence[_File], contents: Contents
) -> None:
    numbered = [(name, file) for name, file in zip(names, files, strict=True) if not file.own_name]
    if len(numbered) > 1:
        weight_map = {tensor: name for name, file in numbered for tensor in file.types}
        metadata = {"total_size": sum(file.num_bytes for _, file in numbered)}
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        write_whole(directory / INDEX_FILE, f"{json.dumps(index, indent=2)}\n".encode())
    for name, content in contents.files.items():
        write_whole(directory / name, content)
