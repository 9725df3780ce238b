"""The length of a run."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.training import TrainingConfig


def steps(train_epochs: float, *, num_examples: int = 54) -> int:
    config = TrainingConfig(stage="rm", is_pairwise_dataset=True, train_epochs=train_epochs)
    return config.num_steps(4, num_examples=num_examples)


def test_epochs_are_rounded_up_to_a_whole_batch() -> None:
    assert steps(0.01) == 1
    assert steps(2) == 27
    assert steps(0.3, num_examples=40) == 3  # not of 12.000000000000002 samples


@pytest.mark.parametrize("train_epochs", [1e-300, 1e12, 1e300, 1e308])
def test_epochs_that_make_no_run_are_refused(train_epochs: float) -> None:
    """They were steps of 300 digits, or an overflow."""
    with pytest.raises(UserError, match=r"--train-epochs \S+ of 54 examples must make a step at least, and"):
        steps(train_epochs)
