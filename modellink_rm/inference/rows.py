"""Rows of the output of `score`: a record's own fields, then its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.inference.result import NotScored, Scored

# Names of what the model says, in the order of a row.
SCORE, SCORES = "score", "scores"
CHOSEN, REJECTED, MARGIN = "chosen_score", "rejected_score", "margin"
STEPS, ATTRIBUTES = "step_scores", "attribute_scores"
TRUNCATED, ERROR = "truncated", "error"
OWN_NAMES = (SCORE, SCORES, STEPS, CHOSEN, REJECTED, MARGIN, ATTRIBUTES, TRUNCATED, ERROR)
_NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class KeptFields:
    """Which fields of a record are in its row.

    Attributes:
        names: of these fields, null where a record has none of a name; None for all that it has.
    """

    names: tuple[str, ...] | None = None

    def of(self, fields: Mapping[str, Any], *, taken: Sequence[str] = OWN_NAMES) -> dict[str, Any]:
        """The kept fields; one with a name that is taken, by what the model says, is kept under another."""
        kept = dict(fields) if self.names is None else {name: fields.get(name) for name in self.names}
        for name in taken:
            if name in kept:
                other = _free_name(name, kept)
                warn_once(f"field {name!r} of the records is kept as {other!r}: the row's own has its name")
                kept[other] = kept.pop(name)
        return kept


def kept_fields(keep: str | None) -> KeptFields:
    """The fields that --keep names.

    Raises:
        UserError: a name is empty or twice there.
    """
    if keep is None:
        return KeptFields()
    if keep == _NOTHING:
        return KeptFields(names=())
    names = tuple(name.strip() for name in keep.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--keep takes names of different fields with commas between them, got {keep!r}")
    return KeptFields(names=names)


def output_row(fields: Mapping[str, Any], result: Scored | NotScored, keep: KeptFields) -> dict[str, Any]:
    """The row of one record.

    Args:
        fields: of the record; empty where it could not be read.
    """
    row = keep.of(fields)
    if isinstance(result, NotScored):
        return {**row, ERROR: result.message}
    truncated = {TRUNCATED: True} if result.is_truncated else {}
    return {**row, **_scores(result), **_attributes(result), **truncated}


def _scores(result: Scored) -> dict[str, Any]:
    if result.is_pair:
        chosen, rejected = result.scores
        return {CHOSEN: chosen, REJECTED: rejected, MARGIN: chosen - rejected}
    scores = result.in_record_order
    steps = {STEPS: list(result.steps)} if result.steps else {}
    return {SCORE: scores[0], **steps} if len(scores) == 1 else {SCORES: scores}


def _attributes(result: Scored) -> dict[str, Any]:
    """The attributes of one response, or a list of those of several; of a pair the preferred one's first."""
    # In the order of the scores beside them.
    found = list(result.attributes) if result.is_pair else result.attributes_in_record_order
    if not found:
        return {}
    return {ATTRIBUTES: found[0] if len(found) == 1 else found}


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name
