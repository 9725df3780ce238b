"""Flags of `python -m modellink_rm inspect`, beside those of the tokenizer."""

from dataclasses import dataclass

from modellink_rm.base.flags import check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What to show."""

    data_path: str = flag(
        help="the data set's --output-prefix; may stand first, without its flag", metavar="PREFIX"
    )
    rows: int = flag(3, minimum=0, help="rows to decode, 0 for the report alone")
    first_row: int = flag(0, minimum=0, help="the first row to decode")
    verify: bool = flag(False, help="read all files and compare them with the manifest's checksums")
    load: str | None = flag(
        None,
        help="a checkpoint of this tool or a model's directory, for its tokenizer; without a tokenizer token "
        "ids are shown",
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        check_minimums(self)
