"""Prm800kHandler: a problem and the steps of a solution that people rated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Stepwise
from modellink_rm.handlers.fields import ResponsesHandler, required, wrong_type
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError, shortened

_LABELS = {1: 1.0, 0: 1.0, -1: 0.0, None: None}


@dataclass(frozen=True, kw_only=True)
class Prm800kHandler(ResponsesHandler):
    """question and label of the files of openai/prm800k (Lightman et al. 2023, arXiv 2305.20050).

    The steps are those of the solution that was rated: the chosen completion of each step, or a person's own,
    which is right; of the last step, which has neither when the solution ends with an error, the
    first one rated -1. A rating of 1 or 0 (neutral) is right and one of -1 wrong: the paper counts neutral
    steps as right when it scores solutions. Completions that are not part of the solution are left out.
    """

    question: str = "question"
    label: str = "label"

    required: ClassVar[tuple[str, ...]] = ("question", "label")
    answer_keys: ClassVar[tuple[str, ...]] = ("label",)

    def __call__(self, record: Mapping[str, Any]) -> Stepwise:
        """The problem and the rated steps of a record.

        Raises:
            RecordError: a field is missing or of another type, or no step is rated.
        """
        question, label = required(self, record, self.question), required(self, record, self.label)
        problem = question.get("problem") if isinstance(question, dict) else None
        steps = label.get("steps") if isinstance(label, dict) else None
        if not isinstance(problem, str) or not problem:
            raise wrong_type(self.question, "an object with the text 'problem'")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise wrong_type(self.label, "an object with the list 'steps'")
        rated = list(_rated(steps))
        if not rated:
            raise RecordError("no step is rated")
        return Stepwise(
            system=None,
            tools="",
            prompt=(Message("user", problem),),
            steps=tuple(text for text, _ in rated),
            labels=tuple(label for _, label in rated),
            source=self.source_of(record),
        )


def _rated(steps: list[dict[str, Any]]) -> Iterator[tuple[str, float | None]]:
    """Text and label of each step of the solution.

    Raises:
        RecordError: a completion has no text, or a rating that is none; the chosen one does not exist; or
            a step has none, and others follow it.
    """
    for number, step in enumerate(steps, 1):
        completion, is_own = _completion(step)
        if number < len(steps) and step.get("chosen_completion") is None and not is_own:
            reason = "a step without a chosen completion before the last one"
            raise RecordError(reason, f"step {number} has no chosen completion, and is not the last one")
        if completion is None:
            return
        text = completion.get("text") if isinstance(completion, dict) else None
        rating = 1 if is_own else completion.get("rating") if isinstance(completion, dict) else None
        if not isinstance(text, str):
            raise RecordError("a completion has no text")
        if not isinstance(rating, int | None) or rating not in _LABELS:
            raise RecordError("a rating that is none", f"the rating {rating!r} is not -1, 0 or 1")
        yield text, _LABELS[rating]


def _completion(step: Mapping[str, Any]) -> tuple[Any, bool]:
    """The completion that the solution goes on with, and whether a person wrote it; None for none.

    Raises:
        RecordError: there are no such completions.
    """
    completions, chosen = step.get("completions") or [], step.get("chosen_completion")
    if not isinstance(completions, list):
        raise RecordError("completions that are no list")
    if chosen is not None:
        if type(chosen) is not int or not 0 <= chosen < len(completions):
            reason = "chosen_completion is not the number of a completion"
            raise RecordError(reason, f"{reason}: {shortened(repr(chosen))}, of {len(completions)}")
        return completions[chosen], False
    if step.get("human_completion") is not None:
        return step["human_completion"], True
    wrong = (one for one in completions if isinstance(one, dict) and one.get("rating") == -1)
    return next(wrong, None), False


HANDLERS.add(Prm800kHandler, Prm800kHandler.__name__)
