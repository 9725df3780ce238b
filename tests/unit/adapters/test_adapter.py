"""The update of one linear, by its formula."""

from typing import Any

import torch

from modellink_rm.adapters.lora import Lora
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers


def outputs_of_a_linear() -> dict[str, Any]:
    """Of 0 and some states: the update in training and in evaluation, and what a merge adds."""
    from modellink_rm.adapters.adapter import ColumnAdapter
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.parallel.groups import engine_groups, process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        adapter = ColumnAdapter(
            Lora(rank=4, alpha=6.0, targets=("q_proj",), dropout=0.5, use_rslora=True),
            (5, 8),
            [0] * 5,
            num_matrices=1,
            dtype=torch.float32,
            tp_group=engine_groups().tp,
            has_divided_rows=False,
        )
        adapter.initialize(3)
        torch.nn.init.normal_(adapter.b)
        states, nothing = torch.randn(7, 1, 8), torch.zeros(7, 1, 5)
        return {
            "states": states,
            "product": adapter.b.detach() @ adapter.a.detach(),
            "in_training": adapter.train()(nothing, states).detach(),
            "in_evaluation": adapter.eval()(nothing, states).detach(),
            "merged": adapter.delta(),
        }


def test_scaling_of_rslora_is_in_outputs_and_merges_and_dropout_in_training_alone(workers: Workers) -> None:
    (found,) = workers.run(outputs_of_a_linear, 1)
    matrix = 6.0 / 4**0.5 * found["product"]
    torch.testing.assert_close(found["merged"], matrix)
    torch.testing.assert_close(found["in_evaluation"], found["states"] @ matrix.T)
    assert (found["in_training"] - found["in_evaluation"]).abs().max() > 0.1
