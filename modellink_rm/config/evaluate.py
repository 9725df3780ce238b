"""Flags of evaluation, beside those of the scorer."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag
from modellink_rm.config.limits import Limits


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Limits):
    """What to evaluate."""

    data: tuple[str, ...] = flag(
        (),
        help="held-out sets of pairs under names of your choice, in any format that preprocess_data.py reads",
        metavar="NAME=PATH",
        accumulates=True,
    )
    benchmark: tuple[str, ...] = flag(
        (),
        help="public benchmarks from local files in their published formats: rewardbench, rewardbench2, "
        "rm-bench, judgebench or ppe; for models of --stage prm: processbench",
        metavar="NAME=PATH",
        accumulates=True,
    )
    compare: tuple[str, ...] = flag(
        (),
        help="further models, each evaluated as --load and compared with it by a paired test",
        metavar="DIR",
        accumulates=True,
    )
    training_data: tuple[str, ...] = flag(
        (),
        help="records that --load was trained on: names the evaluated ones that share 13 words in a row with "
        "them, or a whole shorter prompt",
        metavar="PATH",
        accumulates=True,
    )
    write_normalization: str | None = flag(
        None,
        help="name of a set of --data: normalize the scores of --load by it from now on, in score, "
        "Scorer and export",
        metavar="NAME",
    )
    normalization_kind: str = flag(
        "standard",
        help="standard: mean 0 and standard deviation 1 over all responses of that set; reference: its "
        "preferred responses have mean 0",
        choices=("standard", "reference"),
    )
    output: str | None = flag(None, help="JSON file for all results; the table is printed in any case")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data and not self.benchmark:
            raise UserError(
                "nothing to evaluate: give --data NAME=PATH, as in --data held-out=pairs.jsonl, or "
                "--benchmark NAME=PATH"
            )
        if self.normalization_kind != "standard" and self.write_normalization is None:
            raise UserError(
                f"--normalization-kind {self.normalization_kind} says how --write-normalization normalizes: "
                "give that flag too, or leave this one out"
            )
        names = [word.partition("=")[0] for word in self.data]
        if self.write_normalization is not None and self.write_normalization not in names:
            raise UserError(
                f"--write-normalization {self.write_normalization}: no --data has that name "
                f"({', '.join(names) or 'none is given'})"
            )
