"""Marks of tests."""

import pytest
from _pytest.mark.structures import ParameterSet


def full(*values: object) -> ParameterSet:
    """Parameters of a further combination, which `make test` leaves to `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.full)
