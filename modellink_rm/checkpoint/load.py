"""This process's model chunks with their initial weights."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from modellink_rm.base.errors import AgreedError, listed
from modellink_rm.base.megatron_compat import single_optimizers
from modellink_rm.base.platform import Platform, has_onednn_products, rows_of_a_product
from modellink_rm.checkpoint.distributed import load_weights
from modellink_rm.checkpoint.hf.load import load_hugging_face_weights
from modellink_rm.checkpoint.model_plan import ModelPlan
from modellink_rm.checkpoint.peft.load import load_peft_adapter
from modellink_rm.checkpoint.source import ModelSource
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.model.adapting import is_trained
from modellink_rm.model.build import build_model
from modellink_rm.model.config import Kernels
from modellink_rm.model.kernel_choice import choose_kernels
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.spec import HEAD_PREFIX
from modellink_rm.parallel.groups import Ranks

_PIECE = 1 << 22  # numbers


def build_and_load_model(
    plan: ModelPlan,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kernels: Kernels,
    seed: int,
    ranks: Ranks,
    loads: bool = True,
    verifies: bool = True,
) -> list[RewardModel]:
    """This process's stage or virtual stages, with the weights of their source.

    A collective over all processes.

    Args:
        seed: of weights that the source does not have.
        loads: without it nothing is loaded yet, as where a whole training state is loaded later; but what
            adapters in that state update is.
        verifies: compare the files of tensors with their checksums first, where they have some.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
        AgreedError: a weight that was read is not a finite number.
    """
    chunks = build_model(
        plan.spec,
        model=model,
        parallel=parallel,
        precision=precision,
        kernels=kernels,
        seed=seed,
        initialize=plan.source.is_random,
    )
    source = plan.source if loads else plan.source.base
    if source is not None:
        load_model_weights(chunks, source, ranks, verifies=verifies)
    return chunks


def load_for_scoring(
    plan: ModelPlan,
    platform: Platform,
    *,
    model: ModelConfig,
    parallel: ParallelConfig,
    precision: PrecisionConfig,
    kernels: KernelConfig,
    seed: int,
    ranks: Ranks,
    verifies: bool = True,
) -> list[RewardModel]:
    """The model of `build_and_load_model` for forward passes alone, with the kernels chosen for it.

    Raises:
        CheckpointNotReadError: see `build_and_load_model`.
        AgreedError: likewise, or a kernel that is asked for does not work here.
    """
    chosen = choose_kernels(
        kernels, platform, shape=plan.spec.shape, dtype=precision.dtype, dropout=0.0, num_steps=0
    )
    chosen = dataclasses.replace(
        chosen,
        cpu_inference=has_onednn_products(platform.device, precision.dtype),
        mlp_rows=rows_of_a_product(platform.device),
    )
    chunks = build_and_load_model(
        plan,
        model=model,
        parallel=parallel,
        precision=precision,
        kernels=chosen,
        seed=seed,
        ranks=ranks,
        verifies=verifies,
    )
    return [chunk.eval() for chunk in chunks]


def load_model_weights(
    chunks: Sequence[RewardModel], source: ModelSource, ranks: Ranks, *, verifies: bool = True
) -> None:
    """Fill the model from its source; what the source does not have stays as drawn.

    A collective over all processes.

    Args:
        verifies: compare the files of tensors with their checksums first, where they have some.

    Raises:
        CheckpointNotReadError: on every process: a file is not what was written, or cannot be read.
        AgreedError: a weight that was read is not a finite number.
    """
    if source.base is not None:
        load_model_weights(chunks, source.base, ranks, verifies=verifies)
    if source.hugging_face is not None:
        load_hugging_face_weights(chunks, source.hugging_face, ranks, verifies=verifies)
    elif source.checkpoint is not None:
        load_weights(chunks, source.checkpoint, ranks, verifies=verifies)
    if source.is_random:
        return
    holds_adapters = source.checkpoint is not None and source.checkpoint.run.spec.lora is not None
    check_finite(chunks, source.name, trained_alone=holds_adapters)
    if source.adapter is not None:
        load_peft_adapter(chunks, source.adapter, ranks, verifies=verifies)
        check_finite(chunks, source.adapter_name, trained_alone=True)


def check_finite(chunks: Sequence[RewardModel], name: str, *, trained_alone: bool = False) -> None:
    """Every weight of the model is a finite number; a collective over all processes.

    Args:
        name: what the weights were read from.
        trained_alone: of a model with adapters, these and the head.

    Raises:
        AgreedError: on every process, with the names of those that hold others.
    """
    bad = [
        parameter_name
        for chunk in chunks
        for parameter_name, parameter in chunk.global_parameters()
        if (is_trained(parameter_name) or not trained_alone) and not _is_finite(parameter)
    ]
    names = _names_of_all(bad)
    if names:
        raise AgreedError(
            f"{name}: the weight {listed(names, most=1)} holds NaN or infinity; load weights that do not, "
            "such as those of an earlier checkpoint"
        )


def check_fits(chunks: Sequence[RewardModel], dtype: torch.dtype, *, trained_alone: bool = False) -> None:
    """No weight but the head's becomes infinite in another dtype; a collective over all processes.

    The head is written in float32 where a narrower dtype would round it.

    Args:
        trained_alone: of a model with adapters, these.

    Raises:
        AgreedError: on every process, with the names of those that do.
    """
    bad = [
        name
        for chunk in chunks
        for name, parameter in chunk.global_parameters()
        if parameter.dtype != dtype and not name.startswith(HEAD_PREFIX)
        if (is_trained(name) or not trained_alone) and not _is_finite(parameter, dtype)
    ]
    names = _names_of_all(bad)
    if names:
        word = str(dtype).removeprefix("torch.")
        raise AgreedError(
            f"--dtype {word}: the weight {listed(names, most=1)} holds numbers beyond "
            f"{torch.finfo(dtype).max:.5g}, the largest one of {word}; give float32 or bfloat16"
        )


def check_finite_state(optimizer: Any, name: str) -> None:
    """Every number of an optimizer's state is finite; a collective over all processes.

    Args:
        name: what the state was read from.

    Raises:
        AgreedError: on every process, with the kinds of tensors that hold others.
    """
    bad = [kind for kind, tensor in _tensors_of(optimizer) if not _is_finite(tensor)]
    kinds = _names_of_all(bad)
    if kinds:
        raise AgreedError(
            f"{name}: the optimizer's {' and '.join(kinds)} holds NaN or infinity; go on from an earlier "
            "checkpoint, or with --no-load-optim"
        )


def _is_finite(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether all numbers are finite, in another dtype if one is given.

    Asked in pieces, since torch takes 1.5 times their memory for it.
    """
    pieces = torch.split(tensor.detach().reshape(-1), _PIECE)
    return all(bool(torch.isfinite(piece.to(dtype or piece.dtype)).all()) for piece in pieces)


def _tensors_of(optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The main weights and the moments of this process, each with its kind."""
    for single in single_optimizers(optimizer):
        if single.is_stub_optimizer:
            continue
        for group in single.optimizer.param_groups:
            yield from (("main weights", parameter) for parameter in group["params"])
        for state in single.optimizer.state.values():
            yield from ((kind, value) for kind, value in state.items() if isinstance(value, torch.Tensor))


def _names_of_all(names: Sequence[str]) -> list[str]:
    """The names of all processes, each once, sorted; a collective."""
    found: list[Sequence[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, names)
    return sorted({name for part in found for name in part})
