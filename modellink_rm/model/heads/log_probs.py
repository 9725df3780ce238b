"""Log-probabilities of tokens from hidden states, in chunks: the logits of all never exist at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modellink_rm.model.layers.weight_gradient import add_weight_gradient, mark_gradient_as_added

# Logits of a chunk in this process: in float32 they take 128 MiB.
_LOGITS_OF_A_CHUNK = 1 << 25


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The part of the vocabulary that a tensor-parallel rank has logits of.

    Attributes:
        start: the first token id of this rank's rows.
        num_ids: rows that are of a token; those after them pad the vocabulary.
        group: the tensor-parallel processes.
        softcap: see `ModelSpec.logit_softcap`.
        fuses_weight_gradient: add the weight's gradient to its buffer by the product that computes it.
    """

    start: int
    num_ids: int
    group: Any
    softcap: float | None = None
    fuses_weight_gradient: bool = False


def token_log_probs(rows: Tensor, weight: Tensor, token_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Log-probability of each token [n], float32, equal on every tensor-parallel rank.

    The backward pass computes the logits again, chunk by chunk. The gradient of the weight is added to its
    `main_grad` if it has one; that of the rows is this rank's share, whose sum over ranks is the caller's.

    Args:
        rows: [n, h], the hidden state that predicts each token, whole on every tensor-parallel rank.
        weight: [padded vocabulary / tp, h], with the dtype of the rows.
        token_ids: int64 [n].
    """
    log_probs: Tensor = _TokenLogProbs.apply(rows, weight, token_ids, vocabulary)  # type: ignore[no-untyped-call]
    return log_probs


@torch.no_grad()
def token_log_probs_and_entropies(
    rows: Tensor, weight: Tensor, token_ids: Tensor, vocabulary: Vocabulary
) -> Tensor:
    """Log-probability of each token, and the entropy of the distribution that it is of [n, 2], float32.

    Equal on every tensor-parallel rank, without gradients. An entropy is -sum_v p(v) log p(v), in nats.

    Args:
        rows: see `token_log_probs`, as the other arguments.
    """
    entropies = rows.new_zeros(len(rows), dtype=torch.float32)
    own, log_sums = _own_logits_and_log_sums(rows, weight, token_ids, vocabulary, entropies=entropies)
    whole = _log_sum_over_ranks(log_sums, vocabulary.group)
    if vocabulary.group.size() > 1:
        # Of a distribution in parts with the probabilities w and the entropies h it is sum w (h - log w).
        shares = torch.exp(log_sums - whole)
        entropies = shares * entropies + torch.special.entr(shares)
        torch.distributed.all_reduce(entropies, group=vocabulary.group)
    return torch.stack((own - whole, entropies), dim=-1)


def _own_logits_and_log_sums(
    rows: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    vocabulary: Vocabulary,
    *,
    entropies: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each token's logit [n], and the log-sum of this rank's logits [n], in float32.

    Args:
        entropies: float32 [n], filled with those of the distribution over this rank's tokens alone.
    """
    log_sums = rows.new_full((len(rows),), -torch.inf, dtype=torch.float32)
    own = torch.zeros_like(log_sums)  # on the rank that has the token
    for part in _chunks(len(rows), vocabulary):
        logits = _logits(rows[part], weight, vocabulary)
        ids, is_here = _local_ids(token_ids[part], vocabulary)
        log_sums[part] = logits.logsumexp(dim=-1)
        own[part] = logits.gather(1, ids[:, None])[:, 0].masked_fill_(~is_here, 0.0)
        if entropies is not None:
            log_probs = logits.sub_(log_sums[part, None])
            entropies[part] = -log_probs.exp().mul_(log_probs).sum(dim=-1)
    if vocabulary.group.size() > 1:
        torch.distributed.all_reduce(own, group=vocabulary.group)
    return own, log_sums


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, token_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
        own, log_sums = _own_logits_and_log_sums(rows, weight, token_ids, vocabulary)
        log_sums = _log_sum_over_ranks(log_sums, vocabulary.group)
        ctx.weight, ctx.vocabulary = weight, vocabulary  # the weight itself, for its attributes
        ctx.save_for_backward(rows, token_ids, log_sums)
        return own - log_sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        rows, token_ids, log_sums = ctx.saved_tensors
        weight, vocabulary = ctx.weight, ctx.vocabulary
        of_rows = torch.zeros_like(rows)
        has_buffer = hasattr(weight, "main_grad")
        total = None
        if ctx.needs_input_grad[1]:
            total = weight.main_grad if has_buffer else torch.zeros_like(weight)
        for part in _chunks(len(rows), vocabulary):
            of_logits = _gradient_of_logits(
                rows[part], weight, token_ids[part], log_sums[part], gradient[part], vocabulary
            ).to(rows.dtype)
            torch.mm(of_logits, weight[: vocabulary.num_ids], out=of_rows[part])
            if total is not None:
                _add(
                    total[: vocabulary.num_ids], rows[part], of_logits, fuses=vocabulary.fuses_weight_gradient
                )
        if total is None or not has_buffer:
            return of_rows, total, None, None
        mark_gradient_as_added(weight)
        return of_rows, None, None, None


def _gradient_of_logits(
    rows: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    log_sums: Tensor,
    gradient: Tensor,
    vocabulary: Vocabulary,
) -> Tensor:
    """Gradient [n, num_ids] of this rank's logits, float32, from that of the log-probabilities [n]."""
    logits = _logits(rows, weight, vocabulary)
    slope = None
    if vocabulary.softcap is not None:
        slope = 1 - (logits / vocabulary.softcap).square()
    of_logits = logits.sub_(log_sums[:, None]).exp_().mul_(-gradient[:, None])
    ids, is_here = _local_ids(token_ids, vocabulary)
    of_logits.scatter_add_(1, ids[:, None], (gradient * is_here)[:, None])  # one addition in a row
    return of_logits if slope is None else of_logits.mul_(slope)


def _chunks(num_rows: int, vocabulary: Vocabulary) -> Iterator[slice]:
    """Ranges of rows; none where this rank has no token's row, which it may have in a small vocabulary."""
    if not vocabulary.num_ids:
        return
    size = max(1, _LOGITS_OF_A_CHUNK // vocabulary.num_ids)
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))


def _logits(rows: Tensor, weight: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits [n, num_ids] of this rank's tokens, float32."""
    logits = (rows @ weight[: vocabulary.num_ids].t()).float()
    if vocabulary.softcap is None:
        return logits
    return logits.div_(vocabulary.softcap).tanh_().mul_(vocabulary.softcap)


def _local_ids(token_ids: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """The row of each token, 0 for one of another rank, and whether it is of this one."""
    local = token_ids - vocabulary.start
    is_here = (local >= 0) & (local < vocabulary.num_ids)
    return local.masked_fill(~is_here, 0), is_here


def _log_sum_over_ranks(log_sums: Tensor, group: Any) -> Tensor:
    """The logarithm of the sum of exponentials over all ranks, from that of each."""
    if group.size() == 1:
        return log_sums
    largest = log_sums.clone()
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=group)
    sums = torch.exp(log_sums - largest)
    torch.distributed.all_reduce(sums, group=group)
    return largest + sums.log_()


def _add(total: Tensor, rows: Tensor, of_logits: Tensor, *, fuses: bool) -> None:
    """Add the gradient of the weight's rows to `total`."""
    if fuses or total.dtype == rows.dtype:
        add_weight_gradient(rows, of_logits, total)
    else:
        total.add_(of_logits.t() @ rows)
