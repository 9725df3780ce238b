"""Figures of each data set of a mixture."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modellink_rm.dataset.example import RowName
from modellink_rm.objective.process import ProcessObjective
from modellink_rm.train.data_sets import DataSets, ExampleFigures
from tests.unit.objective.targets import steps

CPU = torch.device("cpu")


def part_of(*prefixes: str) -> Any:
    datasets = [SimpleNamespace(dataset=SimpleNamespace(prefix=prefix), rows=range(9)) for prefix in prefixes]
    return SimpleNamespace(datasets=datasets)


def figures(names: str, losses: list[float], credits: list[float] | None) -> ExampleFigures:
    return ExampleFigures(
        tuple(RowName(f"data/{name}", row) for row, name in enumerate(names)),
        torch.tensor(losses),
        None if credits is None else torch.tensor(credits, dtype=torch.float64),
    )


def metrics(data_sets: DataSets, *parts: ExampleFigures) -> dict[str, dict[str, float]]:
    sums = data_sets.sums(parts, CPU)
    assert sums.names == data_sets.no_sums(CPU).names
    return data_sets.metrics(dict(zip(sums.names, sums.values.tolist(), strict=True)))


def test_losses_and_accuracies_are_those_of_each_data_set_over_all_micro_batches() -> None:
    found = metrics(
        DataSets(part_of("data/a", "data/b", "data/c")),
        figures("aab", [1.0, 2.0, 8.0], [1.0, 0.0, 0.5]),
        figures("ba", [4.0, 6.0], [1.0, 1.0]),
    )
    assert found == {
        "a": {"loss": 3.0, "accuracy": pytest.approx(2 / 3), "examples": 3},
        "b": {"loss": 6.0, "accuracy": 0.75, "examples": 2},
    }


def test_an_example_without_an_accuracy_counts_in_the_loss_alone() -> None:
    found = metrics(
        DataSets(part_of("data/a", "data/b")), figures("aab", [1.0, 2.0, 3.0], [1.0, math.nan, math.nan])
    )
    assert found == {
        "a": {"loss": 1.5, "accuracy": 1.0, "examples": 2},
        "b": {"loss": 3.0, "examples": 1},
    }


def test_objective_without_an_accuracy_has_losses_alone() -> None:
    found = metrics(DataSets(part_of("data/a", "data/b")), figures("ab", [1.0, 2.0], None))
    assert found == {"a": {"loss": 1.0, "examples": 1}, "b": {"loss": 2.0, "examples": 1}}


def test_loss_and_accuracy_of_steps_are_means_over_the_labelled_steps_of_each_data_set() -> None:
    """Whatever the responses of the other data set, which the weight of a step in its global batch is of."""
    labels, others = (1.0, 0.0), (1.0,) * 6
    scores = torch.tensor([2.0, -1.0, *[0.0] * 6])
    names = (RowName("data/short", 0), RowName("data/long", 0))
    parts = []
    for weight in (0.25, 3.0):
        batch: Any = SimpleNamespace(names=names, targets=steps(labels, others, weight=weight))
        parts.append(ExampleFigures.of(ProcessObjective()(scores, batch.targets), batch))
    found = metrics(DataSets(part_of("data/short", "data/long")), *parts)
    loss = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-1.0))) / 2
    assert found == {
        "short": {"loss": pytest.approx(loss, rel=1e-6), "accuracy": 1.0, "examples": 2},
        "long": {"loss": pytest.approx(math.log(2), rel=1e-6), "accuracy": 0.0, "examples": 2},
    }


def test_loss_that_is_not_finite_stays_in_its_data_set() -> None:
    found = metrics(DataSets(part_of("data/a", "data/b")), figures("ab", [float("nan"), 2.0], None))
    assert found["b"]["loss"] == 2.0


def test_a_single_data_set_has_no_figures_of_its_own() -> None:
    data_sets = DataSets(part_of("data/a"))
    assert data_sets.sums([figures("a", [1.0], [1.0])], CPU).names == ()
    assert data_sets.metrics({}) == {}


def test_a_data_set_has_one_name_in_training_and_in_a_part_without_rows_of_others() -> None:
    prefixes = ("hh/pairs", "safe/pairs", "data/math")
    whole, part = part_of(*prefixes), part_of(*prefixes)
    part.datasets[1].rows = range(0)
    assert DataSets(whole).names == ("hh.pairs", "safe.pairs", "math")
    assert DataSets(part).names == ("hh.pairs", "math")
