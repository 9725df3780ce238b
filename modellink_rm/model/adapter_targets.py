"""Which matrices of a model have adapters: the flags' names, the family's, and those that files have."""

import dataclasses
from collections.abc import Iterator, Sequence

from modellink_rm.adapters.lora import Lora
from modellink_rm.adapters.nf4 import BLOCK
from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.lora import LoraConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import RowOrder, StoredTensor
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import EXPERTS_INFIX, ModelSpec

# The engine's names, as MindSpeed-LLM and Megatron-LM have them, and the linears of ours that they stand for.
ENGINE_TARGETS = {
    "linear_qkv": ("self_attention.linear_qkv", "self_attention.linear_q", "self_attention.linear_kv"),
    "linear_proj": ("self_attention.linear_proj",),
    "linear_fc1": ("mlp.linear_fc1", "mlp.shared_expert.linear_fc1"),
    "linear_fc2": ("mlp.linear_fc2", "mlp.shared_expert.linear_fc2"),
}
_DEFAULT_RANK = 16  # MindSpeed-LLM's
_ADAPTABLE = {engine for engines in ENGINE_TARGETS.values() for engine in engines}


def new_adapters(flags: LoraConfig, shape: ModelShape) -> Lora | None:
    """The adapters that the flags ask for; None if they ask for none.

    Raises:
        UserError: flags of adapters without --lora-r, or names of no matrices.
    """
    if flags.lora_r is None and not flags.lora_target_modules:
        if flags.given:
            raise UserError(f"{flags.given[0]} is about adapters; give --lora-r too, the rank of these")
        return None
    rank = flags.lora_r or _DEFAULT_RANK
    return Lora(
        rank=rank,
        alpha=flags.lora_alpha if flags.lora_alpha is not None else 2.0 * rank,
        targets=targets_of(flags.lora_target_modules, shape),
        dropout=flags.lora_dropout or 0.0,
        use_rslora=flags.lora_use_rslora,
        quantization="nf4" if flags.load_in_4bit else "",
    )


def agreed(
    flags: LoraConfig, loaded: Lora, shape: ModelShape, *, source: str, knows_quantization: bool
) -> Lora:
    """The adapters that are loaded, if the flags that are given say the same.

    Args:
        source: where they were read, for messages.
        knows_quantization: whether they say how the model itself was held; else --load-in-4bit may be added.

    Raises:
        UserError: a flag says something else.
    """
    given = {
        "--lora-r": (flags.lora_r, loaded.rank),
        "--lora-alpha": (flags.lora_alpha, loaded.alpha),
        "--lora-dropout": (flags.lora_dropout, loaded.dropout),
        "--lora-target-modules": (
            targets_of(flags.lora_target_modules, shape) if flags.lora_target_modules else None,
            loaded.targets,
        ),
        "--lora-use-rslora": (flags.lora_use_rslora or None, loaded.use_rslora),
        "--load-in-4bit": (
            (flags.load_in_4bit and knows_quantization) or None,
            bool(loaded.quantization),
        ),
    }
    for name, (value, found) in given.items():
        if value is not None and value != found:
            raise UserError(
                f"{name} {_words(value)} contradicts {_words(found)} of the adapters in {source}; leave the "
                "flag out"
            )
    return dataclasses.replace(loaded, quantization="nf4") if flags.load_in_4bit else loaded


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else f"{value}"


def targets_of(names: Sequence[str], shape: ModelShape) -> tuple[str, ...]:
    """The matrices that --lora-target-modules names, as `Lora.targets` has them; all without names.

    A name is one of the engine's (linear_qkv), or one of the family's own, whole or its end (q_proj).

    Raises:
        UserError: there is no such matrix, or it is of an expert, which has no adapters.
    """
    found = {name: entry.engine for entry in adaptable_entries(shape) for name in own_names(entry)}
    if not names:
        return tuple(sorted(found))
    of_experts = [name for entry in _expert_entries(shape) for name in own_names(entry)]
    chosen: set[str] = set()
    for name in names:
        fits = {
            own
            for own, engine in found.items()
            if engine in ENGINE_TARGETS.get(name, ()) or own == name or own.endswith(f".{name}")
        }
        if any(own.endswith(f".{name}") for own in of_experts) or (not fits and name in ENGINE_TARGETS):
            raise UserError(
                f"--lora-target-modules {name}: the experts of a mixture have no adapters; name "
                f"{' '.join(sorted(found))}, or some of them"
            )
        if not fits:
            choices = [*ENGINE_TARGETS, *dict.fromkeys(own.rsplit(".", 1)[-1] for own in sorted(found))]
            raise UserError(unknown_name_message("--lora-target-modules", name, choices))
        chosen |= fits
    return tuple(sorted(chosen))


def shortest_names(lora: Lora, shape: ModelShape) -> tuple[str, ...]:
    """The targets as PEFT's users know them, q_proj, where all matrices that end so are targets."""
    entries = [*adaptable_entries(shape), *_expert_entries(shape)]
    others = {
        name.rsplit(".", 1)[-1] for entry in entries for name in own_names(entry) if name not in lora.targets
    }
    ends = [name.rsplit(".", 1)[-1] for name in lora.targets]
    return tuple(name if end in others else end for name, end in zip(lora.targets, ends, strict=True))


def own_names(entry: StoredTensor) -> list[str]:
    """The names of an entry's stored tensors within a layer: "self_attn.q_proj"."""
    return [name.split("{layer}.", 1)[1] for name in entry.names]


def adaptable_entries(shape: ModelShape) -> Iterator[StoredTensor]:
    """The entries of the family's table whose linears can have adapters."""
    for entry in FAMILIES[shape.family].tensors.layer:
        layers = range(shape.num_layers)
        if entry.engine in _ADAPTABLE and any(entry.is_in(shape, layer) for layer in layers):
            if entry.engine.startswith("mlp.shared_expert") and not _has_shared_expert(shape):
                continue
            yield entry


def linear_orders(shape: ModelShape) -> list[RowOrder]:
    """The row orders of the linears of a layer that can have adapters, and be held in 4 bits."""
    return [entry.row_order(shape) for entry in adaptable_entries(shape)]


def _has_shared_expert(shape: ModelShape) -> bool:
    return shape.experts is not None and shape.experts.shared_ffn_hidden_size > 0


def _expert_entries(shape: ModelShape) -> list[StoredTensor]:
    if not shape.num_sparse_layers:
        return []
    return [entry for entry in FAMILIES[shape.family].tensors.layer if EXPERTS_INFIX in entry.engine]


def check_quantized_sizes(spec: ModelSpec, *, tensor_parallel_size: int) -> None:
    """Check that every matrix can be held in 4 bits, divided as the flags ask.

    Raises:
        UserError: a row of a process's part is not made of whole blocks, or the model has experts.
    """
    if spec.lora is None or not spec.lora.quantization:
        return
    if spec.shape.experts is not None:
        raise UserError("--load-in-4bit does not hold the matrices of experts in 4 bits; leave it out")
    for order in linear_orders(spec.shape):
        columns = order.columns or 0
        own = columns // tensor_parallel_size if order.divided == "columns" else columns
        if own % BLOCK:
            raise UserError(
                f"--load-in-4bit: a row of the model's matrices has {own} numbers in a process, which must "
                f"be a multiple of {BLOCK}; use another --tensor-model-parallel-size, or leave it out"
            )
