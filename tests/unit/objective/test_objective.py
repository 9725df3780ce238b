"""The pair loss and the metrics, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.dataset.example import Example, Response
from modellink_rm.objective.losses import PAIR_LOSSES, sigmoid_loss
from modellink_rm.objective.metrics import metrics_from_sums
from modellink_rm.objective.pairwise import PairwiseObjective


def batch_of(num_pairs: int) -> Batch:
    response = Response(np.array([1, 2, 3], dtype=np.int32), 1)
    return pack_examples([Example(10 + number, (response, response)) for number in range(num_pairs)])


def test_sigmoid_loss_is_minus_log_sigmoid_of_the_margin() -> None:
    losses = sigmoid_loss(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 1.0]))
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)


def test_sigmoid_loss_stays_finite_at_a_margin_where_log_of_sigmoid_overflows() -> None:
    assert sigmoid_loss(torch.tensor([0.0]), torch.tensor([200.0])).item() == 200.0


def test_objective_returns_sums_over_pairs() -> None:
    scores = torch.tensor([1.0, 0.5, 2.0, 2.0, -1.0, 3.0], requires_grad=True)
    loss, count, kept = PairwiseObjective(PAIR_LOSSES["sigmoid"])(scores, batch_of(3))
    margins = [0.5, 0.0, -4.0]
    assert loss.item() == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins), rel=1e-6)
    assert (count.item(), count.dtype) == (3, torch.int32)
    assert kept["indices"] == (10, 11, 12)
    metrics = metrics_from_sums(kept["sums"])
    assert metrics.num_examples == 3
    assert metrics.accuracy == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics.ties == 1
    assert metrics.margin == pytest.approx(sum(margins) / 3)
    assert metrics.chosen_std == pytest.approx(np.std([1.0, 2.0, -1.0]))
    assert metrics.rejected_std == pytest.approx(np.std([0.5, 2.0, 3.0]))
    assert metrics.num_tokens == 18


def test_sums_over_micro_batches_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(10, generator=generator)
    objective = PairwiseObjective(PAIR_LOSSES["sigmoid"])
    whole = objective(scores, batch_of(5))[2]["sums"]
    parts = objective(scores[:4], batch_of(2))[2]["sums"] + objective(scores[4:], batch_of(3))[2]["sums"]
    torch.testing.assert_close(parts, whole)


def test_loss_that_is_not_finite_makes_every_gradient_nan() -> None:
    head = torch.tensor([2.0], requires_grad=True)
    scores = torch.stack([head[0] * 0, head[0] + torch.inf])
    loss, _, _ = PairwiseObjective(PAIR_LOSSES["sigmoid"])(scores, batch_of(1))
    loss.backward()
    assert math.isnan(head.grad.item())


def test_empty_micro_batch_has_no_loss_no_gradient_and_no_sums() -> None:
    head = torch.tensor([2.0], requires_grad=True)
    scores = head * torch.ones(0)
    loss, count, kept = PairwiseObjective(PAIR_LOSSES["sigmoid"])(scores, batch_of(0))
    loss.backward()
    assert (loss.item(), count.item(), head.grad.item()) == (0.0, 0, 0.0)
    assert kept["sums"].count_nonzero() == 1  # the padding
    assert metrics_from_sums(kept["sums"] + torch.ones(1)).num_padding == 2
