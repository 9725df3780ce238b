"""The head of a language model, which turns hidden states into log-probabilities of answers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.utils import make_tp_sharded_tensor_for_checkpoint
from torch import Tensor, nn

from modellink_rm.batching.answers import AnswerTokens
from modellink_rm.model.attention.packed import ScoredRows
from modellink_rm.model.families.tensors import EMBEDDING
from modellink_rm.model.heads.log_probs import (
    Vocabulary,
    token_log_probs,
    token_log_probs_and_entropies,
)
from modellink_rm.model.spec import ModelSpec


class LanguageModelHead(nn.Module):
    """Log-probabilities of answers, whose tokens' logits are divided over tensor parallelism.

    Attributes:
        weight: [padded vocabulary / tp, h]; None where the token embedding of this stage is used. On the last
            of several stages it is a copy of a tied embedding, which the engine keeps equal.
        gives_entropies: whether `forward` also gives those of the distributions, without gradients.
    """

    gives_entropies = False

    def __init__(
        self,
        spec: ModelSpec,
        *,
        has_embedding: bool,
        dtype: torch.dtype,
        device: torch.device,
        tp_group: Any,
        cp_group: Any,
        fuses_weight_gradient: bool,
    ) -> None:
        super().__init__()
        num_rows = spec.padded_vocab_size // tp_group.size()
        start = tp_group.rank() * num_rows
        self.tp_group, self.cp_group = tp_group, cp_group
        self.is_tied = spec.ties_embedding
        self.vocabulary = Vocabulary(
            start=start,
            num_ids=min(max(spec.shape.vocab_size - start, 0), num_rows),
            group=tp_group,
            softcap=spec.logit_softcap,
            fuses_weight_gradient=fuses_weight_gradient,
        )
        if self.is_tied and has_embedding:
            self.register_parameter("weight", None)
            return
        self.weight = nn.Parameter(torch.empty(num_rows, spec.shape.hidden_size, dtype=dtype, device=device))
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)
        if self.is_tied:
            self.weight.shared = True  # type: ignore[attr-defined]  # the first stage's is the one that counts
            self.weight.shared_embedding = True  # type: ignore[attr-defined]

    def forward(
        self, rows: Tensor, scored: ScoredRows, answers: AnswerTokens, embedding: Tensor | None
    ) -> Tensor:
        """The log-probability of each response's answer [num_responses], float64, on every process.

        In float32 the sum over a long answer, of thousands, would be off by 1e-4. With entropies it is
        [num_responses, 2]: the second column is the sum over the answer's tokens of the entropies of the
        distributions that predict them, in nats.

        Args:
            rows: hidden states of the scored rows [n, h], whole on every tensor-parallel rank.
            embedding: the token embedding of this stage, if it has one.
        """
        weight = embedding if self.weight is None else self.weight
        assert weight is not None
        whole: Tensor = copy_to_tensor_model_parallel_region(rows, group=self.tp_group)
        held = scored.held  # of a sequence that is divided over processes, each token is on one of them
        values_of = token_log_probs_and_entropies if self.gives_entropies else token_log_probs
        found = values_of(whole[scored.slots[held]], weight, answers.token_ids[held], self.vocabulary)
        values = found.double()
        sums = values.new_zeros(answers.num_answers, *values.shape[1:])
        sums = sums.index_put((answers.answers[held],), values, accumulate=True)
        if self.cp_group.size() > 1:
            sums = reduce_from_tensor_model_parallel_region(sums, group=self.cp_group)
        return sums[answers.slots]

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The weight as the engine describes the embedding's, of which a tied one is a copy."""
        if self.weight is None:
            return {}
        assert metadata is not None
        dp_cp_group = metadata["dp_cp_group"]
        described = make_tp_sharded_tensor_for_checkpoint(
            tensor=self.weight,
            key=f"{EMBEDDING}.weight" if self.is_tied else f"{prefix}weight",
            replica_id=(1, 0, dp_cp_group.rank()) if self.is_tied else None,
            allow_shape_mismatch=True,
            prepend_offsets=sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=dp_cp_group,
        )
        return {f"{prefix}weight": described}


@contextmanager
def entropies_given(chunks: Iterable[nn.Module]) -> Iterator[None]:
    """A block in which the heads of language models give entropies; other models are as ever."""
    heads = [one for chunk in chunks for one in chunk.modules() if isinstance(one, LanguageModelHead)]
    for head in heads:
        head.gives_entropies = True
    try:
        yield
    finally:
        for head in heads:
            head.gives_entropies = False
