"""Losses of pairs against numbers worked out by hand, and how they are known by name."""

import math
from pathlib import Path

import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.losses.registry import LOSSES, PairLoss, ScoredPairs
from modellink_rm.objective.pairwise import PairwiseObjective


def losses_of(loss: PairLoss, chosen: list[float], rejected: list[float]) -> list[float]:
    nothing = torch.full((len(chosen),), math.nan)
    pairs = ScoredPairs(chosen=torch.tensor(chosen), rejected=torch.tensor(rejected), margins=nothing)
    return loss(pairs).tolist()


def test_sigmoid_loss_is_minus_log_sigmoid_of_the_margin() -> None:
    expected = [math.log(1 + math.exp(-1)), math.log(2), math.log(1 + math.exp(3))]
    found = losses_of(LOSSES["sigmoid"], [1.0, 0.0, -2.0], [0.0, 0.0, 1.0])
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_stays_finite_at_margins_where_log_of_sigmoid_overflows(name: str) -> None:
    found = losses_of(LOSSES[name], [0.0, 200.0], [200.0, 0.0])
    assert all(math.isfinite(loss) for loss in found)
    assert found[0] > found[1] >= 0.0


def test_unknown_loss_is_an_error_that_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"unknown --loss-type 'help' \(choices: sigmoid\)"):
        choose_objective("help")


def test_installed_package_offers_a_loss_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hinge.py").write_text(
        "def hinge_loss(pairs):\n    return (1 - (pairs.chosen - pairs.rejected)).clamp(min=0)\n"
    )
    metadata = tmp_path / "hinge-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hinge\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[modellink_rm.losses]\nhinge = hinge:hinge_loss\n")
    assert "hinge" not in LOSSES
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(LOSSES, "_entries", {**LOSSES._entries})  # forgotten after the test
    objective = choose_objective("hinge")
    assert isinstance(objective, PairwiseObjective)
    assert losses_of(objective.loss, [3.0, 0.0], [1.0, 2.0]) == [0.0, 3.0]
