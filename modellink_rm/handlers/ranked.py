"""RankedResponsesHandler: K responses to one prompt with their ranks or ratings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from modellink_rm.conversation import Message, Ranking
from modellink_rm.handlers.fields import (
    ResponsesHandler,
    required,
    required_number,
    required_text,
    tie,
    tools_text,
    wrong_type,
)
from modellink_rm.handlers.messages import alternating, only_system_text, read_answer, read_messages
from modellink_rm.handlers.registry import HANDLERS
from modellink_rm.records import RecordError


@dataclass(frozen=True, slots=True)
class _Order:
    """A number for each response; `is_rank` says that lower numbers are better."""

    is_rank: bool
    numbers: list[float]


@dataclass(frozen=True, kw_only=True)
class RankedResponsesHandler(ResponsesHandler):
    """prompt and responses with ranks or ratings, as in InstructGPT (arXiv 2203.02155).

    A list beside the responses gives `ranks` (lowest is best) or `ratings` (highest is best), or a field of
    each response gives its `rank` or `rating`; if a record has several, the first of these four counts.
    Equal numbers are a tie. Differences of ratings to the best one are the margins.
    The prompt is a text or a list of messages; a response is a text, a message, or an object whose field
    `response` is its text.
    """

    prompt: str = "prompt"
    system: str = ""
    tools: str = "tools"
    responses: str = "responses"
    ranks: str = "ranks"
    ratings: str = "ratings"
    response: str = "response"
    rank: str = "rank"
    rating: str = "rating"

    required: ClassVar[tuple[str, ...]] = ("prompt", "responses")
    answer_keys: ClassVar[tuple[str, ...]] = ("responses",)

    def __call__(self, record: Mapping[str, Any]) -> Ranking:
        """The ranking of a record; responses of equal rank stay in the record's order.

        Raises:
            RecordError: a field is missing or of another type, or no response is better than another.
        """
        prompt = read_messages(required(self, record, self.prompt), self.prompt, text_is="user")
        items = required(self, record, self.responses)
        if not isinstance(items, list):
            raise wrong_type(self.responses, "a list of responses")
        if len(items) < 2:
            raise RecordError("fewer than two responses")
        answers = [self._answer(item, f"response {number + 1}") for number, item in enumerate(items)]
        order = self._order(record, items)
        best_first = sorted(
            range(len(items)), key=lambda i: order.numbers[i] if order.is_rank else -order.numbers[i]
        )
        numbers = [order.numbers[i] for i in best_first]
        if numbers[0] == numbers[-1]:
            raise tie(f"every response has the {'rank' if order.is_rank else 'rating'} {numbers[0]:g}")
        places = {number: place for place, number in enumerate(dict.fromkeys(numbers), start=1)}
        return Ranking(
            system=only_system_text(record, self.system, prompt.system),
            tools=tools_text(record, self.tools),
            prompt=alternating(prompt.turns, self.prompt),
            responses=tuple(answers[i] for i in best_first),
            ranks=tuple(places[number] for number in numbers),
            margins=None if order.is_rank else tuple(numbers[0] - number for number in numbers[1:]),
            source=self.source_of(record),
            places=tuple(best_first),
        )

    def _order(self, record: Mapping[str, Any], items: list[Any]) -> _Order:
        for name, is_rank in ((self.ranks, True), (self.ratings, False)):
            values = record.get(name) if name else None
            if values is None:
                continue
            if not isinstance(values, list):
                raise wrong_type(name, "a list of numbers")
            if len(values) != len(items):
                reason = f"field {name!r} has not one number for each response"
                raise RecordError(reason, f"{reason}: {len(values)} for {len(items)}")
            return _Order(is_rank, [required_number(self, {name: value}, name) for value in values])
        for name, is_rank in ((self.rank, True), (self.rating, False)):
            if name and all(isinstance(item, dict) and item.get(name) is not None for item in items):
                return _Order(is_rank, [required_number(self, item, name) for item in items])
        reason = "neither ranks nor ratings of the responses"
        names = [name for name in (self.ranks, self.ratings, self.rank, self.rating) if name]
        raise RecordError(reason, f"{reason}: {', '.join(names)}")

    def _answer(self, item: Any, where: str) -> Message:
        if isinstance(item, dict) and "role" not in item:
            return Message("assistant", required_text(self, item, self.response))
        return read_answer(item, where)


HANDLERS.add(RankedResponsesHandler, RankedResponsesHandler.__name__)
