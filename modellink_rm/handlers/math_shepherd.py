"""MathShepherdHandler: a question with its steps as one text, and the same text with the labels in it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Stepwise
from modellink_rm.handlers.fields import ResponsesHandler, optional_text, required_text
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.handlers.stepwise import step_labels
from modellink_rm.records import RecordError

# After every step of the published files.
PLACEHOLDER = "\N{CYRILLIC SMALL LETTER KA}\N{CYRILLIC SMALL LETTER I}"
_RIGHT, _WRONG = "+", "-"
_FIRST_STEP = re.compile(r"(?<!\S)Step 1\s*:")


@dataclass(frozen=True, kw_only=True)
class MathShepherdHandler(ResponsesHandler):
    """input and label, as in peiyi9979/Math-Shepherd (Wang et al. 2023, arXiv 2312.08935).

    `input` is the question and the steps, "Step 1: ...", each with a placeholder after it; `label` is the
    same text with + or - in the placeholders' places. Instead of `label` a list `value` may have the labels:
    + and -, as OpenRLHF takes them, or probabilities. The placeholder is not part of a step:
    --placeholder-token says what ends one in the data set.
    """

    input: str = "input"
    label: str = "label"
    value: str = "value"
    system: str = ""

    required: ClassVar[tuple[str, ...]] = ("input",)
    answer_keys: ClassVar[tuple[str, ...]] = ("input",)

    def __call__(self, record: Mapping[str, Any]) -> Stepwise:
        """The question and the steps of a record.

        Raises:
            RecordError: a field is missing or of another type, or the text is not a question with steps.
        """
        text = required_text(self, record, self.input)
        *pieces, rest = text.split(PLACEHOLDER)
        first = _FIRST_STEP.search(pieces[0]) if pieces else None
        if first is None or rest.strip():
            reason = f"field {self.input!r} is not a question with steps"
            raise RecordError(
                reason, f"{reason}: it needs a text 'Step 1:', and {PLACEHOLDER!r} after every step"
            )
        if _FIRST_STEP.search(pieces[0], first.end()) is not None:
            reason = f"field {self.input!r} has 'Step 1:' twice before the first step ends"
            raise RecordError(reason, f"{reason}: the question may end before either")
        question = pieces[0][: first.start()].strip()
        if not question:
            raise RecordError("empty prompt", f"field {self.input!r} has nothing before 'Step 1:'")
        steps = (pieces[0][first.start() :], *pieces[1:])
        return Stepwise(
            system=optional_text(record, self.system) or None,
            tools="",
            prompt=(Message("user", question),),
            steps=tuple(step.strip() for step in steps),
            labels=self._labels(record, pieces),
            source=self.source_of(record),
        )

    def _labels(self, record: Mapping[str, Any], pieces: list[str]) -> tuple[float | None, ...] | None:
        """The labels of the steps, in the field `value` or in the text of the field `label`."""
        values = record.get(self.value) if self.value else None
        if values is not None:
            signs = {_RIGHT: 1, _WRONG: 0}
            if isinstance(values, list):
                values = [signs.get(value, value) if isinstance(value, str) else value for value in values]
            return step_labels(values, self.value, num_steps=len(pieces))
        marked = optional_text(record, self.label)
        if not marked:
            return None
        labels, start = [], 0
        for piece in pieces:
            end = start + len(piece)
            sign = marked[end : end + 1]
            if marked[start:end] != piece or sign not in (_RIGHT, _WRONG):
                reason = f"field {self.label!r} is not the text of {self.input!r} with + and - in it"
                raise RecordError(reason)
            labels.append(float(sign == _RIGHT))
            start = end + 1
        return tuple(labels)


HANDLERS.add(MathShepherdHandler, MathShepherdHandler.__name__)
