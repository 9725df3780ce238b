"""Weights that are not trained: which ones, and a forward pass that keeps nothing for their gradients."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor, nn

from modellink_rm.model.spec import LAYER_PREFIX


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """What is frozen of a stage; the embedding always is, on the stage that has it.

    Attributes:
        layers: how its first layers, which are frozen, compute; in the block they pass hidden states on.
        is_whole: all layers are frozen, and so is the final norm if the stage has it.
    """

    layers: tuple[Callable[..., Any], ...] = ()
    is_whole: bool = False


def freeze(chunks: Sequence[Any], *, num_trained_layers: int) -> None:
    """Freeze the embedding and all layers but the last ones; with none of them the final norm too.

    Args:
        chunks: this process's stage or virtual stages, before they have gradient buffers.
        num_trained_layers: 0 to train the head alone.
    """
    for chunk in chunks:
        chunk.trained_share = num_trained_layers / chunk.spec.shape.num_layers
        first_trained = chunk.spec.shape.num_layers - num_trained_layers
        for name, parameter in chunk.global_parameters():
            if _is_frozen(name, first_trained, freezes_norm=not num_trained_layers):
                parameter.requires_grad_(False)
        offset = get_transformer_layer_offset(chunk.config, chunk.vp_stage)
        layers = list(chunk.decoder.layers)
        frozen = layers[: max(0, first_trained - offset)]
        if len(frozen) == len(layers) and (not chunk.post_process or not num_trained_layers):
            chunk.frozen = FrozenPart(is_whole=True)
        elif frozen or chunk.pre_process:
            chunk.frozen = FrozenPart(layers=tuple(map(_taken_out, frozen)))


def _is_frozen(name: str, first_trained: int, *, freezes_norm: bool) -> bool:
    if name.startswith(LAYER_PREFIX):
        return int(name.removeprefix(LAYER_PREFIX).split(".", 1)[0]) < first_trained
    return name.startswith("embedding.") or (freezes_norm and name.startswith("decoder."))


def _taken_out(layer: nn.Module) -> Callable[..., Any]:
    """The layer's forward pass, which the block leaves out from now on: there it might be recomputed."""
    forward = layer.forward

    def pass_on(hidden_states: Tensor, **unused: Any) -> tuple[Tensor, None]:
        return hidden_states, None

    layer.forward = pass_on
    return forward


def decoded(
    decoder: Any,
    frozen: FrozenPart | None,
    hidden_states: Tensor | None,
    layout: Any,
    *,
    received: Tensor | None,
) -> Tensor:
    """The output of a stage's layers and norm, keeping nothing of those that are frozen.

    Args:
        decoder: the engine's block; where it is not the model's first, with its input set.
        hidden_states: embeddings, on the first stage.
        received: from the stage before, which wants a gradient of it: zeros, where all before is frozen.
    """
    if frozen is None:
        whole: Tensor = decoder(hidden_states=hidden_states, attention_mask=None, packed_seq_params=layout)
        return whole
    if frozen.is_whole:
        with torch.no_grad():
            output = decoder(hidden_states=hidden_states, attention_mask=None, packed_seq_params=layout)
        return _anchored(output, received)
    states = decoder.input_tensor if hidden_states is None else hidden_states
    with torch.no_grad(), _other_draws(decoder):
        for compute in frozen.layers:
            states, _ = compute(hidden_states=states, attention_mask=None, packed_seq_params=layout)
    states = _anchored(states, received)
    if hidden_states is None:
        decoder.set_input_tensor(states)
        states = None
    rest: Tensor = decoder(hidden_states=states, attention_mask=None, packed_seq_params=layout)
    return rest


def _other_draws(decoder: Any) -> AbstractContextManager[None]:
    """Dropout with other numbers on each tensor-parallel rank that has other tokens, as in the block."""
    if not decoder.config.sequence_parallel:
        return nullcontext()
    fork: AbstractContextManager[None] = get_cuda_rng_tracker().fork()
    return fork


def _anchored(states: Tensor, received: Tensor | None) -> Tensor:
    """The states as something that needs a gradient, and that has none to give but zeros.

    Recomputation leaves out the gradients of layers whose input needs none (megatron-core 0.16.1,
    tensor_parallel/random.py), and a stage waits for a gradient of what it has sent.
    """
    anchor = received if received is not None else torch.zeros((), device=states.device, requires_grad=True)
    anchored: Tensor = _Anchored.apply(states, anchor)  # type: ignore[no-untyped-call]
    return anchored


class _Anchored(torch.autograd.Function):
    """The states; the gradient of the anchor is 0."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, anchor: Tensor) -> Tensor:
        ctx.anchor = anchor.shape, anchor.dtype
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        shape, dtype = ctx.anchor
        return None, gradient.new_zeros(shape, dtype=dtype)
