"""UltraFeedbackPairwiseHandler: rated completions, or the pairs made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Pair
from modellink_rm.handlers.fields import (
    LabelledPairHandler,
    PairwiseHandler,
    question_text,
    required_number,
    required_text,
    tie,
    wrong_type,
)
from modellink_rm.handlers.messages import OpenAiMessagesPairwiseHandler
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, kw_only=True)
class UltraFeedbackPairwiseHandler(LabelledPairHandler):
    """UltraFeedback in both of its forms.

    Binarized: prompt, chosen and rejected (texts, or lists of messages), score_chosen and score_rejected,
    whose difference is the margin; equal ones are a tie. Raw: instruction and completions, each with response
    and a score; the best one is chosen and the worst one rejected, the earlier of equal ones. The score is
    fine-grained_score, because some overall_score values of that data set are ten times too high.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    instruction: str = "instruction"
    completions: str = "completions"
    response: str = "response"
    score: str = "fine-grained_score"

    required: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    answer_keys: ClassVar[tuple[str, ...]] = ("chosen", "rejected", "completions")

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: a field is missing or of another type, or no response is better than another.
        """
        if self.completions in record and self.chosen not in record:
            return self._best_and_worst(record)
        return OpenAiMessagesPairwiseHandler(
            prompt=self.prompt,
            chosen=self.chosen,
            rejected=self.rejected,
            source=self.source,
            score_chosen=self.score_chosen,
            score_rejected=self.score_rejected,
            margin=self.margin,
            probability=self.probability,
        )(record)

    def _best_and_worst(self, record: Mapping[str, Any]) -> Pair:
        completions = record[self.completions]
        if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
            raise wrong_type(self.completions, "a list of completions")
        if len(completions) < 2:
            raise RecordError("fewer than two completions")
        rated = [
            (required_number(self, item, self.score), required_text(self, item, self.response))
            for item in completions
        ]
        best, worst = max(rated, key=lambda item: item[0]), min(rated, key=lambda item: item[0])
        if best[0] == worst[0]:
            raise tie(f"every completion has the score {best[0]:g}")
        margin = PairwiseHandler.margin_of(self, record)
        return Pair(
            system=None,
            tools="",
            prompt=(Message("user", question_text(self, record, self.instruction)),),
            chosen=Message("assistant", best[1]),
            rejected=Message("assistant", worst[1]),
            margin=best[0] - worst[0] if margin is None else margin,
            probability=self.probability_of(record),
            source=self.source_of(record),
        )


HANDLERS.add(UltraFeedbackPairwiseHandler, UltraFeedbackPairwiseHandler.__name__)
