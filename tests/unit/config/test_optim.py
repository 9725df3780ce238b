import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.optim import OptimConfig


def test_warmup_and_decay_count_samples() -> None:
    assert OptimConfig(lr_warmup_iters=2).schedule(40, 4) == (8, 40)
    assert OptimConfig(lr_warmup_fraction=0.25, lr_decay_iters=8).schedule(40, 4) == (8, 32)


def test_warmup_of_all_steps_is_refused() -> None:
    with pytest.raises(UserError, match="warmup must be shorter than the schedule: --lr-warmup-iters 10"):
        OptimConfig(lr_warmup_iters=10).schedule(40, 4)
