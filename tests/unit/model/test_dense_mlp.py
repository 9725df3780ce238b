"""An MLP that computes some tokens after the others, against all at once."""

import dataclasses

import pytest
import torch

from modellink_rm.base.platform import detect_platform
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers
from tests.unit.model.small_model import build_small

NUM_TOKENS = 80


def outputs_and_rows(tp_size: int, has_gradients: bool) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The output of all tokens at once, of 32 at a time, and the rows that its gate then saw."""
    from modellink_rm.parallel.groups import process_groups

    parallel = ParallelConfig(tensor_model_parallel_size=tp_size)
    with process_groups(parallel, detect_platform(), seed=1):
        model = build_small(parallel=parallel)
        mlp, seen = model.decoder.layers[0].mlp, []
        states = torch.randn(NUM_TOKENS, 1, 64, generator=torch.Generator().manual_seed(1))
        with torch.set_grad_enabled(has_gradients):
            whole, _ = mlp(states)
            mlp.activation_func.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
            mlp.config.kernels = dataclasses.replace(mlp.config.kernels, mlp_rows=32)
            divided, _ = mlp(states)
        return whole.detach(), divided.detach(), seen


def test_rows_at_a_time_give_the_output_of_all_rows(workers: Workers) -> None:
    ((whole, divided, seen),) = workers.run(outputs_and_rows, 1, 1, False)
    assert seen == [32, 32, 16]
    torch.testing.assert_close(divided, whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("tp_size", "has_gradients"), [(1, True), (2, False)])
def test_gradients_and_sums_over_processes_take_all_rows_at_once(
    workers: Workers, tp_size: int, has_gradients: bool
) -> None:
    for whole, divided, seen in workers.run(outputs_and_rows, tp_size, tp_size, has_gradients):
        assert seen == [NUM_TOKENS]
        assert torch.equal(divided, whole)
