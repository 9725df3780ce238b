"""The objective of ratings against numbers worked out by hand, and the flags and data that it refuses."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.base.errors import UserError
from modellink_rm.batching.targets import Targets, targets_of
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.config.training import TrainingConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.objective.choice import choose_objective
from modellink_rm.objective.objective import Objective
from modellink_rm.objective.regression import RegressionObjective

NAN = math.nan
NAMES = ("helpfulness", "verbosity")


def rated(*rows: tuple[float, ...]) -> Targets:
    """Targets of one response for each row of ratings."""
    response = Response(input_ids=np.ones(3, np.int32), num_prompt_tokens=1)
    return targets_of([Example(number, (response,), ratings=(row,)) for number, row in enumerate(rows)])


def objective(names: tuple[str, ...] = NAMES) -> RegressionObjective:
    found = choose_objective("regression")
    assert isinstance(found, RegressionObjective)
    return replace(found, attributes=names)


def test_loss_is_the_mean_squared_error_of_the_ratings_that_are_given() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.5, -1.0]])
    losses = objective()(outputs, rated((4.0, 1.0), (NAN, 2.0), (0.0, NAN))).losses
    assert losses.tolist() == pytest.approx([(9 + 1) / 2, 9.0, 0.25])


def test_rating_that_is_not_given_has_no_gradient() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    objective()(outputs, rated((4.0, 1.0), (NAN, 2.0))).losses.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[-3.0, 1.0], [0.0, 6.0]]


def test_gradient_is_that_of_the_loss() -> None:
    outputs = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    targets = rated((4.0, 1.0), (NAN, 2.0), (0.0, 3.0))
    assert torch.autograd.gradcheck(lambda values: objective()(values, targets).losses, (outputs,))


def test_one_attribute_takes_scores_without_a_second_axis() -> None:
    losses = objective(("quality",))(torch.tensor([1.0, -1.0]), rated((2.0,), (-1.0,))).losses
    assert losses.tolist() == [1.0, 0.0]


def test_batch_that_only_pads_has_no_losses() -> None:
    result = objective()(torch.zeros(0, 2), targets_of([]))
    assert result.losses.shape == (0,)
    assert set(result.sums) == set(objective().sum_names)


def metrics_of(parts: list[tuple[torch.Tensor, Targets]], of: Objective) -> dict[str, float]:
    """The metrics over several micro-batches."""
    results = [of(outputs, targets) for outputs, targets in parts]
    sums = {name: float(sum(one.sums[name] for one in results)) for name in of.sum_names}
    return of.metrics(sums, sum(len(one.losses) for one in results))


def test_metrics_over_micro_batches_are_those_of_all_responses() -> None:
    generator = np.random.default_rng(5)
    outputs, ratings = generator.normal(size=(20, 2)), generator.integers(0, 5, size=(20, 2)).astype(float)
    ratings[generator.random((20, 2)) < 0.3] = NAN
    rows = [tuple(row) for row in ratings.tolist()]
    parts = [
        (torch.tensor(outputs[block]), rated(*rows[block]))
        for block in (slice(0, 7), slice(7, 8), slice(8, 20))
    ]
    found = metrics_of(parts, objective())
    for column, name in enumerate(NAMES):
        given = ~np.isnan(ratings[:, column])
        one, other = outputs[given, column], ratings[given, column]
        assert found[f"{name}_error"] == pytest.approx(((one - other) ** 2).mean())
        assert found[f"{name}_correlation"] == pytest.approx(np.corrcoef(one, other)[0, 1])


def test_correlation_of_equal_outputs_is_0() -> None:
    found = metrics_of([(torch.full((3, 2), 0.1), rated((1.0, 2.0), (2.0, 2.0), (3.0, 2.0)))], objective())
    assert found["helpfulness_correlation"] == found["verbosity_correlation"] == 0.0


@pytest.mark.parametrize(
    "flags",
    [
        {"label_smoothing": 0.1},
        {"margin_weight": 0.5},
        {"centering_weight": 0.01},
        {"tie_threshold": 0.2},
        {"range_penalty_weight": 0.02},
        {"score_l2_weight": 0.1},
        {"length_penalty_weight": 0.1},
        {"focal_gamma": 1.0},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_flag_of_pairs_is_refused(flags: dict[str, Any]) -> None:
    name = next(iter(flags)).replace("_", "-")
    with pytest.raises(UserError, match=f"--{name} has no meaning for --loss-type regression"):
        choose_objective("regression", ObjectiveConfig(**flags))


def data_of(*attributes: str) -> Any:
    return SimpleNamespace(prefix=Path("data/x"), rows=SimpleNamespace(attributes=attributes))


def test_attributes_are_those_of_the_data() -> None:
    assert choose_objective("regression").for_data([data_of(*NAMES)]).labels.examples == "responses"
    with pytest.raises(UserError, match="data/x has no ratings"):
        choose_objective("regression").for_data([data_of()])
    with pytest.raises(UserError, match="data/x has ratings of verbosity, not of helpfulness, verbosity"):
        choose_objective("regression").for_data([data_of(*NAMES), data_of("verbosity")])


def test_loss_of_pairs_refuses_ratings() -> None:
    with pytest.raises(UserError, match=r"data/x has ratings of single responses.*--loss-type regression"):
        choose_objective("sigmoid").for_data([data_of(*NAMES)])


def test_ratings_are_trained_on_without_the_flag_of_pairs() -> None:
    assert TrainingConfig(stage="rm", loss_type="regression", train_iters=1).loss_type == "regression"
    with pytest.raises(UserError, match="or on ratings by --loss-type regression"):
        TrainingConfig(stage="rm", train_iters=1)
