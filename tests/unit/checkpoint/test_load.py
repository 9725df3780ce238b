"""What is asked of the weights of a model once they are loaded."""

import pytest
import torch

from modellink_rm.base.errors import AgreedError
from modellink_rm.base.platform import detect_platform
from modellink_rm.config.parallel import ParallelConfig
from tests.distributed import Workers
from tests.unit.model.small_model import build_small


def check_what_overflows(weight: str, number: float) -> str:
    """What is said of a model, one number of which is that, before it is written in float16."""
    from modellink_rm.checkpoint.load import check_fits
    from modellink_rm.parallel.groups import process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        model = build_small()
        model.get_parameter(weight).data[0, 1] = number
        check_fits([model], torch.float32)
        check_fits([model], torch.bfloat16)
        try:
            check_fits([model], torch.float16)
        except AgreedError as error:
            return str(error)
        return ""


@pytest.mark.parametrize(
    ("weight", "number", "is_refused"),
    [
        ("embedding.word_embeddings.weight", -65520.0, True),
        ("embedding.word_embeddings.weight", -65519.0, False),  # rounded to the largest one
        ("rm_head.weight", 1e9, False),  # written in float32
    ],
)
def test_weights_that_another_dtype_makes_infinite_are_named(
    workers: Workers, weight: str, number: float, is_refused: bool
) -> None:
    (line,) = workers.run(check_what_overflows, 1, weight, number)
    assert bool(line) == is_refused
    assert not is_refused or line == (
        f"--dtype float16: the weight {weight} holds numbers beyond 65504, the largest one of float16; give "
        "float32 or bfloat16"
    )
