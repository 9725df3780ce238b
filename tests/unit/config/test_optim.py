import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.optim import OptimConfig


def test_warmup_and_decay_count_samples() -> None:
    assert OptimConfig(lr_warmup_iters=2).schedule(40, 4) == (8, 40)
    assert OptimConfig(lr_warmup_fraction=0.25, lr_decay_iters=8).schedule(40, 4) == (8, 32)


def test_warmup_of_all_steps_is_refused() -> None:
    with pytest.raises(UserError, match="warmup must be shorter than the schedule: --lr-warmup-iters 10"):
        OptimConfig(lr_warmup_iters=10).schedule(40, 4)


def test_wsd_decays_over_the_last_tenth_or_as_many_steps_as_are_asked_for() -> None:
    assert OptimConfig(lr_decay_style="WSD").wsd_decay((8, 400), 4) == 40
    assert OptimConfig(lr_decay_style="WSD", lr_wsd_decay_iters=20).wsd_decay((8, 400), 4) == 80
    assert OptimConfig(lr_decay_style="WSD").wsd_decay((0, 4), 4) == 1


def test_wsd_decay_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"--lr-wsd-decay-iters 99 must fit .* of the schedule: 98 steps"):
        OptimConfig(lr_decay_style="WSD", lr_wsd_decay_iters=99).wsd_decay((8, 400), 4)
    with pytest.raises(UserError, match="--lr-wsd-decay-iters needs --lr-decay-style WSD, got cosine"):
        OptimConfig(lr_decay_style="cosine", lr_wsd_decay_iters=5)
    with pytest.raises(UserError, match="--lr-wsd-decay-style needs --lr-decay-style WSD, got constant"):
        OptimConfig(lr_wsd_decay_style="linear")
