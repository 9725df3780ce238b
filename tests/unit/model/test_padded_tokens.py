"""Tokens that only fill a micro-batch up, as on GPUs, against none."""

import torch

from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers
from tests.unit.model.small_model import NUM_TOKENS, build_small, example


def scores_and_norm(divisible_by: int) -> tuple[int, list[float], float]:
    """The length of a pair's micro-batch, its scores, and the norm of the gradient of all weights."""
    from modellink_rm.parallel.groups import process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        model = build_small()
        batch = pack_examples([example()], divisible_by=divisible_by)
        scores = model(batch)
        (scores[0] - scores[1]).backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return len(batch.input_ids), scores.tolist(), float(torch.nn.utils.get_total_norm(gradients))


def test_scores_and_gradients_do_not_depend_on_the_multiple(workers: Workers) -> None:
    ((length, scores, norm),) = workers.run(scores_and_norm, 1, 1)
    ((padded, others, other),) = workers.run(scores_and_norm, 1, 128)
    assert (length, padded) == (NUM_TOKENS, 128)
    # Products of more rows may add in another order.
    torch.testing.assert_close(
        torch.tensor([*others, other]), torch.tensor([*scores, norm]), rtol=1e-5, atol=1e-7
    )
