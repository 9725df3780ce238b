"""A checkpoint of ModelLink 1.0 or Megatron-LM, with the names and slices of a Hugging Face directory."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights
from modellink_rm.checkpoint.hf.heads import HeadNames, StoredHead
from modellink_rm.checkpoint.hf.mappings import engine_names, expected_shapes, row_order_of
from modellink_rm.checkpoint.megatron.files import shard_files
from modellink_rm.checkpoint.megatron.merged import MergedFile, MergedTensor
from modellink_rm.checkpoint.megatron.names import (
    COMMON_PARTS,
    LANGUAGE_MODEL_HEAD,
    engine_name,
    layer_number,
)
from modellink_rm.checkpoint.megatron.pickles import Shard, check_shards, read_shard
from modellink_rm.checkpoint.verify import check_together
from modellink_rm.model.families.registry import family_of
from modellink_rm.model.families.row_orders import RowOrder
from modellink_rm.model.families.tensors import StoredTensor, TensorTable
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import HEAD_PREFIX, LAYER_PREFIX
from modellink_rm.parallel.groups import Ranks

_HEAD = HeadNames(f"{HEAD_PREFIX}weight", f"{HEAD_PREFIX}bias")
# Its input is divided (ModelLink, tasks/post_train/rm/rm_model.py, RowParallelLinear).
_HEAD_ORDER = RowOrder(sizes=(1,), columns=1, order=((0, 1),), divided="columns")
_WHOLE = RowOrder(sizes=(1,), columns=None, order=((0, 1),))
# Flags of Megatron-LM and ModelLink that change the numbers of a model, with the values that do not.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("rope", "learned_absolute"),  # the latter has a tensor, which is refused
    "rotary_seq_len_interpolation_factor": (1,),
    "apply_residual_connection_post_layernorm": (False,),
    "apply_layernorm_1p": (False,),
    "add_rmsnorm_offset": (False,),
    "input_embeds_norm": (False,),
    "geglu": (False,),
    "gelu_tanh": (False,),
    "embedding_multiplier_scale": (1,),
    "scale_emb": (1,),
    "scale_depth": (),
    "attn_logit_softcapping": (0,),
}
# Flags that must say what the base model's config.json says.
_SIZES = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "kv_channels")


class MegatronWeights(HuggingFaceWeights):
    """The weights of all ranks as whole tensors, mapped but not read.

    Attributes:
        directory: of the mp_rank_ directories.
        shape: what the base model's config.json says, and of a reward model the numbers of its run.
        post_layer_norm: what the run's flags say.
        prompt_type: the run's --prompt-type; None if it is not said.
    """

    prompt_type: str | None

    def __init__(self, directory: Path, base_model: str | Path) -> None:
        """Read the base model's config.json, and of every rank's file all but the numbers.

        Raises:
            UserError: a file is missing, damaged or names code, or the model is not the base model's or is
                not supported.
        """
        self.directory, self.base_model = directory, Path(base_model)
        self.read_config()
        paths = shard_files(directory)
        self._paths = [path for stage in paths for path in stage]
        shards = [[read_shard(path) for path in stage] for stage in paths]
        _check_iterations(shards, where=f"{directory}")
        arguments = shards[0][0].arguments
        _check_arguments(arguments, self.shape, num_ranks=len(shards[0]), where=f"{directory}")
        self.tensors = _megatron_table(self.shape, family_of(self.config).tensors)
        merged = MergedFile(dict(_merged(shards, self.shape, self.tensors, where=f"{directory}")))
        self._files = dict.fromkeys(merged.keys(), merged)
        self._expected = expected_shapes(self.shape, self.tensors)
        self._head = None
        if _HEAD.weight in self._files:
            has_bias = _HEAD.bias in self._files
            self._head = StoredHead(directory, _HEAD.weight, merged, _HEAD, has_bias)
            self.shape = _shape_of_run(arguments, self.shape, where=f"{directory}")
        self.post_layer_norm = not arguments.get("no_post_layer_norm", False)
        prompt_type = arguments.get("prompt_type")
        self.prompt_type = prompt_type if isinstance(prompt_type, str) else None

    @property
    def keeps_language_model(self) -> bool:
        """Whether there is a head: ModelLink's reward models have a language-model head too."""
        return self._head is not None

    def check_contents(self, ranks: Ranks) -> None:
        """Compare every number with the checksums that the ranks' files have of theirs. A collective.

        Raises:
            CheckpointNotReadError: on every process: a file is not what was written.
        """
        share = self._paths[ranks.rank :: ranks.world_size]
        check_together(lambda: check_shards(share), ranks)

    def release(self) -> None:
        """Nothing is given back: the ranks' files stay mapped, each of them holds parts of all tensors."""


def _check_iterations(shards: Sequence[Sequence[Shard]], *, where: str) -> None:
    """Refuse files of several iterations, as of a directory that was copied over another."""
    found = sorted({shard.iteration for stage in shards for shard in stage if shard.iteration is not None})
    if len(found) > 1:
        raise UserError(
            f"{where} has files of iterations {found[0]} and {found[-1]}; copy every mp_rank_ directory of "
            "one of them"
        )


def _check_arguments(arguments: Mapping[str, Any], shape: ModelShape, *, num_ranks: int, where: str) -> None:
    """Compare the flags of the run with the base model's config.json."""
    if arguments.get("num_experts"):
        raise UserError(f"{where}: checkpoints of mixtures of experts are not read")
    if arguments.get("tensor_model_parallel_size", num_ranks) != num_ranks:
        raise UserError(
            f"{where} is of --tensor-model-parallel-size {arguments['tensor_model_parallel_size']} and has "
            f"files of {num_ranks} ranks; copy every mp_rank_ directory"
        )
    for name, plain in _plain_flags(shape).items():
        value = arguments.get(name)
        if value is not None and value not in plain:
            raise UserError(
                f"{where} was trained with {name} {value}, which --base-model's config.json does not "
                "say: the model would give other scores"
            )
    expected = {name: getattr(shape, name) for name in _SIZES}
    given = {name: arguments[name] for name in _SIZES if arguments.get(name) is not None}
    if "num_attention_heads" in given:
        has_groups = arguments.get("group_query_attention")
        expected["num_query_groups"] = shape.num_query_groups
        given["num_query_groups"] = arguments.get("num_query_groups" if has_groups else "num_attention_heads")
    different = [
        f"{name} {value} instead of {expected[name]}"
        for name, value in given.items()
        if value != expected[name]
    ]
    if different:
        raise UserError(
            f"{where} has {', '.join(different)} of --base-model's config.json: give its own base model"
        )


def _plain_flags(shape: ModelShape) -> dict[str, tuple[Any, ...]]:
    """The flags that change numbers, with the values that leave them as config.json has them.

    Parts of heads that are rotated, and scaled angles, have several names: a model with these is asked none.
    """
    flags = {**_PLAIN, "query_pre_attn_scalar": (shape.kv_channels,)}
    if shape.rope_scaling is None:
        flags |= {"rope_scaling_type": (), "use_rope_scaling": (False,)}
    if shape.rotary_percent == 1:
        flags |= {"rotary_percent": (1,), "use_glm_rope": (False,), "rotary_interleaved": (False,)}
    return flags


def _shape_of_run(arguments: Mapping[str, Any], shape: ModelShape, *, where: str) -> ModelShape:
    """The shape with the numbers that the run computed with, which need not be its base model's."""
    values = {"norm_epsilon": arguments.get("norm_epsilon"), "rotary_base": arguments.get("rotary_base")}
    changed: dict[str, Any] = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and float(value) != getattr(shape, name)
    }
    for name, value in changed.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{where} says that it was trained with {name} {value:g}: it is damaged")
        warn_once(f"{where} was trained with {name} {value:g}, not its base model's {getattr(shape, name):g}")
    return dataclasses.replace(shape, **changed)


def _megatron_table(shape: ModelShape, table: TensorTable) -> TensorTable:
    """The engine's tensors by its own names, which are those of ModelLink.

    Raises:
        UserError: the family has parts that ModelLink stores in another form.
    """
    entries = [entry for entry in (*table.ends, *table.layer) if entry.is_in_shape(shape)]
    if shape.experts is not None or any(entry.engine not in COMMON_PARTS for entry in entries):
        raise UserError(
            f"checkpoints of ModelLink or Megatron-LM are not read for model_type {shape.family}; load its "
            "Hugging Face directory"
        )
    return TensorTable(
        prefix="",
        ends=tuple(_in_engine_order(entry, entry.engine) for entry in table.ends),
        layer=tuple(
            _in_engine_order(entry, f"{LAYER_PREFIX}{{layer}}.{entry.engine}") for entry in table.layer
        ),
        lm_head=LANGUAGE_MODEL_HEAD,
        buffers=("_extra_state", "rotary_pos_emb.inv_freq"),
        head=HEAD_PREFIX.removesuffix("."),
    )


def _in_engine_order(entry: StoredTensor, name: str) -> StoredTensor:
    """The entry of a tensor that is stored whole, with its rows in the engine's order."""

    def row_order(shape: ModelShape) -> RowOrder:
        order = entry.row_order(shape)
        stops = [0]
        for start, stop in order.order:
            stops.append(stops[-1] + stop - start)
        return dataclasses.replace(order, sizes=(stops[-1],), order=tuple(itertools.pairwise(stops)))

    return dataclasses.replace(entry, names=(name,), row_order=row_order)


def _merged(
    shards: Sequence[Sequence[Shard]], shape: ModelShape, table: TensorTable, *, where: str
) -> Iterator[tuple[str, MergedTensor]]:
    """The pairs (name, whole tensor) of all stages."""
    if len({len(shard.chunks) for stage in shards for shard in stage}) > 1:
        raise UserError(f"{where}: ranks have other numbers of virtual stages; copy every mp_rank_ directory")
    orders = {name: row_order_of(name, shape, table) for name in engine_names(shape, table)}
    orders |= {_HEAD.weight: _HEAD_ORDER}
    for name, parts in _parts(shards):
        order = orders.get(name, _WHOLE)
        num_dimensions = 2 if order.divided == "columns" else 1
        if len({(part.shape, part.dtype) for part in parts}) > 1 or parts[0].dim() < num_dimensions:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise UserError(
                f"{where}: {name} has the shapes {shapes} on its ranks, which are no parts of one"
            )
        yield name, MergedTensor(parts, order, num_rows=order.sizes[0] if order.is_padded else None)


def _parts(shards: Sequence[Sequence[Shard]]) -> Iterator[tuple[str, list[Tensor]]]:
    """The pairs (engine's name, its parts by tensor-parallel rank).

    With virtual stages, the first chunk of every stage comes before the second ones.
    """
    first_layer = 0
    for number in range(len(shards[0][0].chunks)):
        for stage in shards:
            chunks = [shard.chunks[number] for shard in stage]
            for name in chunks[0]:
                parts = [chunk[name] for chunk in chunks if name in chunk]
                yield engine_name(name, first_layer=first_layer), parts
            layers = {layer_number(name) for name in chunks[0]} - {None}
            first_layer += len(layers)
