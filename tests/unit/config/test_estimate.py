"""Flags of estimate."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.estimate import EstimateConfig


def test_a_sequence_that_no_memory_holds_is_refused() -> None:
    """It took dozens of gigabytes."""
    with pytest.raises(UserError, match="--seq-length must be at most 16777216, got 2147483647"):
        EstimateConfig(gpus="1x80G", seq_length=2**31 - 1)
