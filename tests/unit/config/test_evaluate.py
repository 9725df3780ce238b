"""Flags of evaluate."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.evaluate import EvaluateConfig


def test_a_kind_of_normalization_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="--normalization-kind reference says how --write-normalization"):
        EvaluateConfig(data=("a=x",), normalization_kind="reference")
    EvaluateConfig(data=("a=x",), normalization_kind="reference", write_normalization="a")
