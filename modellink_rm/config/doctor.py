"""Flags of `python -m modellink_rm doctor`."""

from dataclasses import dataclass

from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Doctor."""

    directory: str = flag(
        ".", help="where checkpoints are to be written: its disk is measured", metavar="DIR"
    )
    output: str | None = flag(None, help="JSON file for the report; it is printed in any case")
