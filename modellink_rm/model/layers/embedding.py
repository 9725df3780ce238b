"""The token embedding, whose gradient is accumulated by row, without a tensor of the vocabulary's size."""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    get_cuda_rng_tracker,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.nn.functional import embedding

from modellink_rm.model.layers.weight_gradient import mark_gradient_as_added


class TokenEmbedding(MegatronModule):
    """Token ids -> hidden states, with megatron-core's names for the weights."""

    def __init__(self, config: TransformerConfig, *, vocab_size: int, tp_group: Any) -> None:
        super().__init__(config=config)
        self.word_embeddings = RowwiseEmbedding(
            vocab_size,
            config.hidden_size,
            init_method=config.embedding_init_method,
            reduce_scatter_embeddings=config.sequence_parallel,
            config=config,
            tp_group=tp_group,
        )
        self.embedding_dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states [t, 1, h], or [t/tp, 1, h] under sequence parallelism, of input_ids [t]."""
        hidden_states = self.word_embeddings(input_ids[:, None])
        if not self.config.sequence_parallel:
            dropped: Tensor = self.embedding_dropout(hidden_states)
            return dropped
        with get_cuda_rng_tracker().fork():  # other tokens, other numbers
            divided: Tensor = self.embedding_dropout(hidden_states)
        return divided


class ScaledTokenEmbedding(TokenEmbedding):
    """Token ids -> hidden states, times the square root of the hidden size, as in Gemma."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states, with the shape that `TokenEmbedding` gives them."""
        factor = scale_of_embeddings(self.config.hidden_size, self.word_embeddings.weight.dtype)
        return super().forward(input_ids) * factor


def scale_of_embeddings(hidden_size: int, dtype: torch.dtype) -> float:
    """The square root of the hidden size, rounded to the weights' dtype first, as in transformers 5."""
    return torch.tensor(hidden_size**0.5).to(dtype).item()


class RowwiseEmbedding(VocabParallelEmbedding):
    """megatron-core's embedding, with a gradient only for the rows of tokens that occur.

    For each micro-batch torch creates a gradient [vocabulary, h], nearly all zeros, which is then added to
    the engine's gradient buffer (`main_grad`). Here one row per token is added to the buffer directly, as
    the engine's fused linears do.
    """

    def forward(self, input_: Tensor) -> Tensor:
        """Embeddings [t, 1, h] of ids [t, 1]; [t/tp, 1, h] if tokens are divided."""
        if self.tp_group.size() == 1:
            rows: Tensor = _RowsOf.apply(self.weight, input_)  # type: ignore[no-untyped-call]
            return rows
        is_elsewhere = (input_ < self.vocab_start_index) | (input_ >= self.vocab_end_index)
        hidden_states: Tensor = _RowsOf.apply(  # type: ignore[no-untyped-call]
            self.weight, (input_ - self.vocab_start_index).masked_fill(is_elsewhere, 0)
        )
        hidden_states = hidden_states.masked_fill(is_elsewhere[..., None], 0.0)
        if self.reduce_scatter_embeddings:
            divided: Tensor = reduce_scatter_to_sequence_parallel_region(hidden_states, group=self.tp_group)
            return divided
        whole: Tensor = reduce_from_tensor_model_parallel_region(hidden_states, group=self.tp_group)
        return whole


class _RowsOf(torch.autograd.Function):
    """Rows of a weight; their gradient is added to its `main_grad` if it has one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.weight = weight  # itself, for its attributes
        ctx.save_for_backward(rows)
        return embedding(rows, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        (rows,) = ctx.saved_tensors
        weight = ctx.weight
        has_buffer = hasattr(weight, "main_grad")
        total = weight.main_grad if has_buffer else torch.zeros_like(weight)
        # Unlike index_add_, index_put_ adds rows with equal ids in a fixed order on a GPU too.
        total.index_put_((rows,), gradient.to(total.dtype), accumulate=True)
        if not has_buffer:
            return total, None
        mark_gradient_as_added(weight)
        return None, None
