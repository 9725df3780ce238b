"""Which matrices of a model have adapters: the flags' names, the family's, and those that files have."""

import dataclasses
from collections.abc import Iterator, Sequence

from modellink_rm.adapters.lora import Lora
from modellink_rm.adapters.nf4 import BLOCK
from modellink_rm.base.errors import UserError
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import EXPERT_FC1, EXPERT_FC2, StoredTensor
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import EXPERTS_INFIX, ModelSpec

# The engine's names, as MindSpeed-LLM and Megatron-LM have them, and the linears of ours that they stand for.
ENGINE_TARGETS = {
    "linear_qkv": ("self_attention.linear_qkv", "self_attention.linear_q", "self_attention.linear_kv"),
    "linear_proj": ("self_attention.linear_proj",),
    "linear_fc1": ("mlp.linear_fc1", "mlp.shared_expert.linear_fc1", EXPERT_FC1),
    "linear_fc2": ("mlp.linear_fc2", "mlp.shared_expert.linear_fc2", EXPERT_FC2),
}
# What transformers 5 calls the parameters of all experts of a layer, in every family that has some: one
# matrix of gate and up, whatever the files have.
EXPERTS_MODULE = "mlp.experts"
EXPERTS_NAMES = {EXPERT_FC1: f"{EXPERTS_MODULE}.gate_up_proj", EXPERT_FC2: f"{EXPERTS_MODULE}.down_proj"}
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
    lora = Lora(
        rank=rank,
        alpha=flags.lora_alpha if flags.lora_alpha is not None else 2.0 * rank,
        targets=targets_of(flags.lora_target_modules, shape),
        dropout=flags.lora_dropout or 0.0,
        use_rslora=flags.lora_use_rslora,
        quantization="nf4" if flags.load_in_4bit else "",
    )
    check_dropout(lora, shape)
    return lora


def check_dropout(lora: Lora, shape: ModelShape) -> None:
    """Check that the adapters have no dropout where PEFT has none.

    Raises:
        UserError: they have, and some are of experts.
    """
    names = {name for entry in adaptable_entries(shape) if is_of_experts(entry) for name in own_names(entry)}
    if lora.dropout and names.intersection(lora.targets):
        raise UserError(
            f"--lora-dropout {lora.dropout:g}: the updates of experts have no dropout, as in PEFT, whose "
            "form they have; leave it out, or name no matrix of experts"
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
    """The matrices that --lora-target-modules names, as `Lora.targets` has them.

    A name is one of the engine's (linear_qkv), or one of the family's own, whole or its end (q_proj).

    Args:
        names: by default all matrices but those of experts.

    Raises:
        UserError: there is no such matrix, or it is a part of one of experts.
    """
    entries = list(adaptable_entries(shape))
    found = {name: entry.engine for entry in entries for name in own_names(entry)}
    if not names:
        return tuple(sorted(name for name, engine in found.items() if EXPERTS_INFIX not in engine))
    chosen: set[str] = set()
    for name in names:
        fits = {
            own
            for own, engine in found.items()
            if engine in ENGINE_TARGETS.get(name, ()) or own == name or own.endswith(f".{name}")
        }
        names_experts = any(EXPERTS_INFIX in found[own] for own in fits)
        if not names_experts and any(_is_of_one_expert(name, entry) for entry in entries):
            raise UserError(
                f"--lora-target-modules {name}: experts have updates of the matrices that transformers makes "
                f"of theirs, gate and up in one; name {' '.join(sorted(found))}, or some of them"
            )
        if not fits:
            choices = [*ENGINE_TARGETS, *dict.fromkeys(own.rsplit(".", 1)[-1] for own in sorted(found))]
            raise UserError(unknown_name_message("--lora-target-modules", name, choices))
        chosen |= fits
    return tuple(sorted(chosen))


def shortest_names(lora: Lora, shape: ModelShape) -> dict[str, str]:
    """The targets that are linears, as PEFT's users know them: q_proj, where all that end so are targets."""
    entries = list(adaptable_entries(shape))
    linears = {name for entry in entries if not is_of_experts(entry) for name in own_names(entry)}
    targets = [name for name in lora.targets if name in linears]
    others = {
        name.rsplit(".", 1)[-1] for entry in entries for name in own_names(entry) if name not in targets
    }
    ends = [name.rsplit(".", 1)[-1] for name in targets]
    return {name: name if end in others else end for name, end in zip(targets, ends, strict=True)}


def own_names(entry: StoredTensor) -> list[str]:
    """The names of an entry's matrices within a layer, "self_attn.q_proj"; of all experts one."""
    return [EXPERTS_NAMES[entry.engine]] if is_of_experts(entry) else _stored_names(entry)


def _stored_names(entry: StoredTensor) -> list[str]:
    return [name.split("{layer}.", 1)[1] for name in entry.names]


def _is_of_one_expert(name: str, entry: StoredTensor) -> bool:
    """Whether a name is that of an expert's matrix as the files have it."""
    return is_of_experts(entry) and any(own.endswith(f".{name}") for own in _stored_names(entry))


def is_of_experts(entry: StoredTensor) -> bool:
    """Whether an entry is of a matrix of every expert."""
    return EXPERTS_INFIX in entry.engine


def is_adaptable(entry: StoredTensor) -> bool:
    """Whether the matrices of an entry can have adapters, and be held in 4 bits."""
    return entry.engine in _ADAPTABLE


def adaptable_entries(shape: ModelShape) -> Iterator[StoredTensor]:
    """The entries of the family's table whose matrices can have adapters, and be held in 4 bits."""
    for entry in FAMILIES[shape.family].tensors.layer:
        layers = range(shape.num_layers)
        if is_adaptable(entry) and any(entry.is_in(shape, layer) for layer in layers):
            if entry.engine.startswith("mlp.shared_expert") and not _has_shared_expert(shape):
                continue
            yield entry


def _has_shared_expert(shape: ModelShape) -> bool:
    return shape.experts is not None and shape.experts.shared_ffn_hidden_size > 0


def check_quantized_sizes(spec: ModelSpec, parallel: ParallelConfig) -> None:
    """Check that every matrix can be held in 4 bits, divided as the flags ask.

    Raises:
        UserError: a row of a process's part is not made of whole blocks.
    """
    if spec.lora is None or not spec.lora.quantization:
        return
    for entry in adaptable_entries(spec.shape):
        order = entry.row_order(spec.shape)
        columns = order.columns or 0
        flag, size = "--tensor-model-parallel-size", parallel.tensor_model_parallel_size
        if is_of_experts(entry):
            flag, size = "--expert-tensor-parallel-size", parallel.expert_tensor_parallel_size
        own = columns // size if order.divided == "columns" else columns
        if own % BLOCK:
            raise UserError(
                f"--load-in-4bit: a row of the model's matrices has {own} numbers in a process, which must "
                f"be a multiple of {BLOCK}; use another {flag}, or leave it out"
            )
