"""Flags that change nothing are told; those that are used are not."""

import pytest

from modellink_rm.commands.train import run_config
from modellink_rm.train.without_effect import flags_without_effect

WORDS = "--stage rm --is-pairwise-dataset --data-path data --train-iters 9 --load model"


def told(flags: str) -> list[str]:
    return list(flags_without_effect(run_config([*WORDS.split(), *flags.split()])))


@pytest.mark.parametrize(
    ("flag", "with_what_it_is_for"),
    [
        ("--focal-gamma 3", "--loss-type focal"),
        ("--margin-weight 0.5 --loss-type focal", "--loss-type scaled"),
        ("--margin-weight 0.5 --loss-type listwise", "--loss-type kwise"),
        ("--score-range -1 1", "--range-penalty-weight 0.1"),
        ("--stage dpo --simpo-gamma 1", "--dpo-loss-type simpo"),
        ("--min-lr 1e-6", "--lr-decay-style cosine"),
        ("--lr-decay-iters 5", "--lr-decay-style linear"),
        ("--lr-decay-iters 5", "--lr-warmup-fraction 0.5"),
        ("--lr-warmup-init 1e-6", "--lr-warmup-iters 2"),
        ("--recompute-num-layers 2", "--recompute-granularity full"),
        ("--recompute-method block --recompute-granularity selective", "--recompute-granularity full"),
        ("--save-interval 2", "--save run"),
        ("--profile-step-end 20", "--profile"),
        ("--wandb-mode offline", "--wandb-project p"),
        ("--swanlab-mode offline", "--swanlab-project p"),
    ],
)
def test_flag_that_changes_nothing_is_told(flag: str, with_what_it_is_for: str) -> None:
    (line,) = told(flag)
    name = next(word for word in flag.split() if word.startswith("--") and word != "--stage")
    assert line.startswith(f"{name} has no effect here: it is for ")
    assert with_what_it_is_for.split()[0] in line
    assert told(f"{flag} {with_what_it_is_for}") == []


def test_flags_that_are_used_are_not_told() -> None:
    assert told("") == []
    assert told("--lr 1e-4 --lr-warmup-iters 3 --margin-weight 0.5 --label-smoothing 0.1") == []
