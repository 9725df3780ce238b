"""Flags of `python -m modellink_rm report`."""

from dataclasses import dataclass

from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Runs in, a page out."""

    run: tuple[str, ...] = flag(
        help="the --save directories of runs, side by side; may stand first, without their flag",
        metavar="DIR",
    )
    output: str = flag(help="HTML file, complete in itself")
    png: str | None = flag(None, help="directory for the page's charts as PNG files too")
