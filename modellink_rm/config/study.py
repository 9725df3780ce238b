"""Flags of `python -m modellink_rm study`."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag
from modellink_rm.config.limits import Limits


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Limits):
    """Scored answers in, a comparison out."""

    answers: tuple[str, ...] = flag(
        help="what score wrote of each policy's answers, under names of your choice; the others are compared "
        "with the first",
        metavar="NAME=PATH",
        accumulates=False,
    )
    by: str | None = flag(
        None,
        help="field that names the set of a prompt, as train and held-out; by default all are one set",
        metavar="FIELD",
    )
    training_scores: tuple[str, ...] = flag(
        (),
        help="what score wrote of the records that the reward model was trained on: the range of scores that "
        "it saw",
        metavar="PATH",
    )
    output: str = flag(help="HTML file, complete in itself")
    results: str | None = flag(None, help="JSON file for the numbers too", metavar="FILE")
    png: str | None = flag(None, help="directory for the page's charts as PNG files too")
    seed: int = flag(1234, minimum=0, level="rare", help="of the intervals")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [name for name, _ in self.named_answers]
        if len(set(names)) < len(names):
            raise UserError(f"--answers: two policies have one name, got {', '.join(names)}")
        if len(names) < 2:
            raise UserError(f"--answers takes two policies or more, got {', '.join(names)}")

    @property
    def named_answers(self) -> list[tuple[str, str]]:
        """The policies' names and files.

        Raises:
            UserError: one is not NAME=PATH.
        """
        found = []
        for word in self.answers:
            name, is_named, path = word.partition("=")
            if not (name and is_named and path):
                raise UserError(f"--answers takes NAME=PATH, got {word!r}")
            found.append((name, path))
        return found
