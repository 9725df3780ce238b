"""Dropout before the head, whose numbers belong to the samples of a run."""

import dataclasses

import pytest
import torch

from modellink_rm.batching.head_dropout import HeadDropout
from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.dataset.example import RowName
from modellink_rm.parallel.groups import Ranks
from tests.tiny_data import random_example

DROPOUT = HeadDropout(rate=0.25, hidden_size=64, seed=5)
ONE = Ranks(world_size=1, rank=0, tp_size=1, tp_rank=0, pp_size=1, pp_rank=0, dp_size=1, dp_rank=0)


def factors_by_example(max_tokens: int, ranks: list[Ranks]) -> dict[RowName, torch.Tensor]:
    """The factors of a global batch of pairs and a ranking, as it is divided into micro-batches."""
    examples = [random_example(row, 5, 3, 4, *([6] if row == 2 else [])) for row in range(7)]
    packing = Packing(max_tokens=max_tokens, divisible_by=1, share_prefixes=True)
    found = {}
    for one in ranks:
        _, batches = micro_batches_of(examples, packing, one, head_dropout=DROPOUT, consumed_samples=700)
        for batch in batches:
            assert batch.head_factors is not None
            parts = batch.head_factors.split(list(batch.targets.num_responses))
            found |= dict(zip(batch.names, parts, strict=True))
    return found


def test_factors_depend_on_no_division_of_the_global_batch() -> None:
    whole = factors_by_example(10_000, [ONE])
    assert [len(factors) for factors in whole.values()] == [2, 2, 3, 2, 2, 2, 2]
    replicas = [dataclasses.replace(ONE, world_size=2, rank=rank, dp_size=2, dp_rank=rank) for rank in (0, 1)]
    for other in (factors_by_example(1, [ONE]), factors_by_example(20, replicas)):
        assert other.keys() == whole.keys()
        assert all(torch.equal(other[name], factors) for name, factors in whole.items())


def test_no_two_responses_and_no_two_samples_have_the_same_factors() -> None:
    factors = DROPOUT.factors([0, 1], [2, 2])
    assert len({tuple(row.tolist()) for row in factors}) == 4
    assert not torch.equal(DROPOUT.factors([2], [2]), factors[:2])
    other = dataclasses.replace(DROPOUT, seed=6)
    assert not torch.equal(other.factors([0, 1], [2, 2]), factors)


def test_factors_are_zero_at_the_rate_and_keep_the_mean() -> None:
    factors = DROPOUT.factors(range(100), [2] * 100)
    assert factors.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    # 12,800 numbers, of which a quarter is 0: 0.25 with a standard deviation of 0.0038.
    assert (factors == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_micro_batch_without_examples_has_no_factors_and_an_earlier_stage_none_at_all() -> None:
    assert DROPOUT.factors([], []).shape == (0, 64)
    first = dataclasses.replace(ONE, world_size=2, pp_size=2)
    packing = Packing(max_tokens=100, divisible_by=1, share_prefixes=True)
    (batch,) = micro_batches_of([random_example(0, 5, 3, 4)], packing, first, head_dropout=DROPOUT)[1]
    assert batch.head_factors is None
