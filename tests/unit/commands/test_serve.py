"""Flags of scoring that mean nothing to a server."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.commands.serve import main


def test_flags_of_how_records_are_read_are_refused() -> None:
    with pytest.raises(UserError, match="--handler-name is not for serve: a request has one of the forms"):
        main(["--load", "nowhere", "--handler-name", "AlpacaStylePairwiseHandler"])
