"""Flags of the data: how data sets are mixed."""

from fractions import Fraction
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.data import DataConfig, weighted_prefixes


def test_weights_stand_before_prefixes() -> None:
    config = DataConfig(data_path=("0.3", "data/a", "0.7", "data/b"))
    assert config.prefixes == ("data/a", "data/b")
    assert config.data_weights == (Fraction(3, 10), Fraction(7, 10))
    assert weighted_prefixes(("data/a", "./7")) == (("data/a", "./7"), ())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0.3 a b", "--data-path takes a weight before every prefix or before none, got 0.3 a b"),
        ("a 0.7 b", "before every prefix or before none"),
        ("0.3 a 0.7", "before every prefix or before none"),
        ("3 4", "a prefix that is a number is written as ./7"),
        ("0 a 1 b", "a weight must be a finite number above 0, got 0"),
        ("nan a 1 b", "a weight must be a finite number above 0, got nan"),
        ("inf a 1 b", "a weight must be a finite number above 0, got inf"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(data_path=tuple(words.split()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"data_epochs": (1.0,)}, "--data-epochs takes a number for each of the 2 data sets"),
        ({"data_epochs": (1.0, 0.0)}, "--data-epochs must be above 0, got 0.0"),
        ({"data_epochs": (1.0, 1e300)}, "--data-epochs must be below 2147483648, got 1e.300"),
        ({"max_samples": (1, 2, 3)}, "--max-samples takes one number, or one for each of the 2 data sets"),
        ({"max_samples": (0,)}, "--max-samples must be above 0, got 0"),
        ({"data_temperature": 0.0}, "--data-temperature must be above 0"),
        ({"data_temperature": 2.0, "data_epochs": (1.0, 2.0)}, "and --data-epochs exclude each other"),
        (
            {"data_path": ("1", "a", "2", "b"), "data_temperature": 2.0},
            "weights in --data-path and --data-temperature exclude each other",
        ),
    ],
)
def test_ways_of_mixing_that_do_not_fit_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(**{"data_path": ("a", "b"), **flags})
