"""StepwiseHandler: a prompt, the steps of a response, and whether each is right; the form of TRL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Stepwise
from modellink_rm.handlers.fields import ResponsesHandler, required, tools_text, wrong_type
from modellink_rm.handlers.messages import alternating, only_system_text, read_messages
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class StepwiseHandler(ResponsesHandler):
    """prompt, completions and labels, as TRL's stepwise supervision has them (trl-lib/math_shepherd).

    The completions are the texts of the steps. A label is true or false, or a number from 0 to 1: the
    probability that the step is right, such as the share of its continuations that reach the answer
    (Math-Shepherd's soft estimation, arXiv 2312.08935, eq. 4). A step whose label is null, or -100, is scored
    and not trained on. To score, no labels are needed. The prompt is a text or a list of messages.
    """

    prompt: str = "prompt"
    system: str = ""
    tools: str = "tools"
    completions: str = "completions"
    labels: str = "labels"

    required: ClassVar[tuple[str, ...]] = ("prompt", "completions")
    answer_keys: ClassVar[tuple[str, ...]] = ("completions",)

    def __call__(self, record: Mapping[str, Any]) -> Stepwise:
        """The prompt and the steps of a record.

        Raises:
            RecordError: a field is missing or of another type, or there is not a label for each step.
        """
        prompt = read_messages(required(self, record, self.prompt), self.prompt, text_is="user")
        steps = required(self, record, self.completions)
        if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
            raise wrong_type(self.completions, "a list of texts, one for each step")
        labels = record.get(self.labels) if self.labels else None
        return Stepwise(
            system=only_system_text(record, self.system, prompt.system),
            tools=tools_text(record, self.tools),
            prompt=alternating(prompt.turns, self.prompt),
            steps=tuple(steps),
            labels=None if labels is None else step_labels(labels, self.labels, num_steps=len(steps)),
            source=self.source_of(record),
        )


def step_labels(values: Any, name: str, *, num_steps: int) -> tuple[float | None, ...]:
    """The labels in a field, one for each step.

    Raises:
        RecordError: it holds no list of that many truth values, probabilities or nulls.
    """
    if not isinstance(values, list):
        raise wrong_type(name, "a list of labels, one for each step")
    if len(values) != num_steps:
        reason = f"field {name!r} has not one label for each step"
        raise RecordError(reason, f"{reason}: {len(values)} for {num_steps}")
    return tuple(_label(value, name) for value in values)


def _label(value: Any, name: str) -> float | None:
    if value in (None, _IGNORED):
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        reason = f"field {name!r} holds a label that is none"
        raise RecordError(reason, f"{reason}: {value!r}; give true, false or a number from 0 to 1")
    return float(value)


_IGNORED = -100  # the label that TRL and transformers pass over

HANDLERS.add(StepwiseHandler, StepwiseHandler.__name__)
