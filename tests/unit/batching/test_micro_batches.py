"""A replica's micro-batches, where it has to keep step with others."""

from dataclasses import replace

import pytest

from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.parallel.groups import Ranks
from tests.tiny_data import random_example

# One long example and five short ones: a micro-batch for each makes one for a replica and five for the other.
EXAMPLES = [random_example(0, 30, 40, 40), *(random_example(index, 2, 3, 3) for index in range(1, 6))]
RANKS = Ranks(
    world_size=2, rank=0, tp_size=1, tp_rank=0, pp_size=1, pp_rank=0, dp_size=2, dp_rank=0, ep_size=2
)


@pytest.mark.parametrize(("equal_numbers", "expected"), [(False, [1, 5]), (True, [5, 5])])
def test_replicas_that_share_experts_have_equally_many(equal_numbers: bool, expected: list[int]) -> None:
    packing = Packing(max_tokens=1, divisible_by=1, share_prefixes=True, equal_numbers=equal_numbers)
    found = [micro_batches_of(EXAMPLES, packing, replace(RANKS, dp_rank=rank)) for rank in range(2)]
    assert [number for number, _ in found] == expected
    batches = [list(made) for _, made in found]
    assert [len(made) for made in batches] == expected
    assert sum(batch.num_examples for made in batches for batch in made) == len(EXAMPLES)
