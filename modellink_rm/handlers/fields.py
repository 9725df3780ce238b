"""What handlers share: their protocol, and functions that read fields and report wrong ones."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from modellink_rm.conversation import Conversation, Pair
from modellink_rm.records import RecordError, check_unicode

# Data sets hold margins and ratings in float32; the difference of two such numbers is one too.
_LARGEST_NUMBER = 1e38
_ATTRIBUTE = re.compile(r"[\w-]+")


class Handler(Protocol):
    """A function from a record to a conversation."""

    def __call__(self, record: Mapping[str, Any], /) -> Conversation:
        """The conversation of a record.

        Raises:
            RecordError: the record cannot be used.
        """


@dataclass(frozen=True, kw_only=True)
class ResponsesHandler:
    """A handler whose attributes are the keys of --map-keys and hold names of fields, "" for none.

    Attributes:
        source: field that says where the record comes from; a text.
    """

    source: str = ""

    required: ClassVar[tuple[str, ...]] = ()  # keys that cannot be switched off
    answer_keys: ClassVar[tuple[str, ...]] = ()  # keys of the fields that hold responses

    def __call__(self, record: Mapping[str, Any]) -> Conversation:
        """The conversation of a record.

        Raises:
            RecordError: the record cannot be used.
        """
        raise NotImplementedError

    def source_of(self, record: Mapping[str, Any]) -> str | None:
        """The text in the field `source`."""
        return optional_text(record, self.source) or None


@dataclass(frozen=True, kw_only=True)
class PairwiseHandler(ResponsesHandler):
    """A handler of pairs.

    Attributes:
        margin: field that says by how much chosen is preferred; a number, not below 0.
        probability: field with the probability that chosen is preferred; a number from 0.5 to 1.
    """

    margin: str = ""
    probability: str = ""

    def __call__(self, record: Mapping[str, Any]) -> Pair:
        """The pair of a record.

        Raises:
            RecordError: the record cannot be used.
        """
        raise NotImplementedError

    def margin_of(self, record: Mapping[str, Any]) -> float | None:
        """The number in the field `margin`.

        Raises:
            RecordError: it is not a number, or is below 0.
        """
        margin = optional_number(record, self.margin)
        if margin is not None and margin < 0:
            reason = f"field {self.margin!r} is below 0"
            raise RecordError(reason, f"{reason}: a margin says by how much chosen is preferred")
        return margin

    def probability_of(self, record: Mapping[str, Any]) -> float | None:
        """The number in the field `probability`.

        Raises:
            RecordError: it is not a number from 0.5 to 1.
        """
        probability = optional_number(record, self.probability)
        if probability is not None and not 0 <= probability <= 1:
            reason = f"field {self.probability!r} is no probability"
            raise RecordError(reason, f"{reason}: {probability:g}")
        if probability is not None and probability < 0.5:
            reason = "chosen has the lower probability"
            raise RecordError(reason, f"{reason}: {probability:g}, rejected has {1 - probability:g}")
        return probability


@dataclass(frozen=True, kw_only=True)
class LabelledPairHandler(PairwiseHandler):
    """A handler of records that name the chosen and the rejected response, optionally with scores.

    Attributes:
        score_chosen: field of the preferred response's score; the difference of both scores is the margin
            if `margin` names no field.
        score_rejected: field of the other response's score.
    """

    score_chosen: str = "score_chosen"
    score_rejected: str = "score_rejected"

    def margin_of(self, record: Mapping[str, Any]) -> float | None:
        """The number in the field `margin`, else the difference of the scores.

        Raises:
            RecordError: one is not a number, the margin is below 0, or chosen does not have the higher score.
        """
        margin = super().margin_of(record)
        chosen = optional_number(record, self.score_chosen)
        rejected = optional_number(record, self.score_rejected)
        if chosen is None or rejected is None:
            return margin
        if chosen == rejected:
            raise tie(f"both have the score {chosen:g}")
        if chosen < rejected:
            reason = "chosen has the lower score"
            raise RecordError(reason, f"{reason}: {chosen:g}, rejected has {rejected:g}")
        return chosen - rejected if margin is None else margin


def answer_fields(handler: Handler) -> tuple[str, ...]:
    """Names of the fields in which a handler looks for responses; () if it does not say."""
    found: tuple[str, ...] | None = getattr(handler, "answer_fields", None)
    if found is not None:
        return found
    names = (getattr(handler, key) for key in getattr(handler, "answer_keys", ()))
    return tuple(name for name in names if name)


def names_of(text: str) -> tuple[str, ...]:
    """The names in a text, with commas between them."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def rated_attributes(handler: Handler) -> tuple[str, ...]:
    """Names of the attributes that a handler reads ratings of; () if it reads none."""
    found: tuple[str, ...] = getattr(handler, "rated_attributes", ())
    return found


def are_attributes(names: Sequence[str]) -> bool:
    """Whether ratings may be of these: different names of letters, digits, _ and -, at least one.

    They are names of metrics, and of --attribute-weights.
    """
    are_names = not isinstance(names, str) and all(isinstance(name, str) for name in names)
    return are_names and 0 < len(names) == len(set(names)) and all(map(_ATTRIBUTE.fullmatch, names))


def missing_answer_fields(handler: Handler, record: Mapping[str, Any]) -> list[str]:
    """Names of the fields of answers that a handler needs and a record lacks.

    Where a handler needs none of its answer fields by itself, one of them is enough.
    """
    names = answer_fields(handler)
    missing = [name for name in names if record.get(name) is None]
    if not isinstance(handler, ResponsesHandler):  # a user's own may need all of them
        return missing
    needed = [getattr(handler, key) for key in handler.answer_keys if key in handler.required]
    if needed:
        return [name for name in needed if name in missing]
    return missing[:1] if len(missing) == len(names) else []


def label_fields(handler: Handler) -> set[str]:
    """Names of the fields in which a handler looks for margins, scores and probabilities of answers."""
    keys = ("margin", "probability", "score_chosen", "score_rejected")
    return {getattr(handler, key, "") for key in keys} - {""}


def optional_text(record: Mapping[str, Any], name: str) -> str:
    """The text of a field; "" if it is missing, null or switched off."""
    value = record.get(name) if name else None
    if value is not None and not isinstance(value, str):
        raise wrong_type(name, "a text")
    return value or ""


def optional_number(record: Mapping[str, Any], name: str) -> float | None:
    """The number of a field, which may be written as text; None if missing, null or switched off."""
    value = record.get(name) if name else None
    return None if value is None else _number(value, name)


def required_number(handler: ResponsesHandler, record: Mapping[str, Any], name: str) -> float:
    """The number of a field, which may be written as text."""
    return _number(required(handler, record, name), name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise wrong_type(name, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a number")
    if not abs(value) <= _LARGEST_NUMBER:  # or it is NaN
        raise wrong_type(name, f"a number up to {_LARGEST_NUMBER:g}")
    return float(value)


def tools_text(record: Mapping[str, Any], name: str) -> str:
    """The description of tools as text; a JSON value is serialized."""
    tools = record.get(name) if name else None
    if tools in (None, "", "[]", "{}", [], {}):
        return ""
    if not isinstance(tools, str | list | dict):
        raise wrong_type(name, "a text or a list of tools")
    return tools if isinstance(tools, str) else json_text(tools, f"field {name!r}")


def json_text(value: Any, where: str) -> str:
    """A JSON value as text.

    Raises:
        RecordError: it is nested too deeply for Python's json module, or holds half of a surrogate pair.
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise RecordError("nested too deeply", f"{where} is nested too deeply") from None
    check_unicode(text)
    return text


def required(handler: ResponsesHandler, record: Mapping[str, Any], name: str) -> Any:
    """The value of a required field, which must not be null."""
    value = record.get(name)
    if value is None:
        raise RecordError(f"field {name!r} is null") if name in record else missing(handler, name)
    return value


def required_text(handler: ResponsesHandler, record: Mapping[str, Any], name: str) -> str:
    """The text of a required field; a list of one text counts as that text."""
    value = only_item(required(handler, record, name))
    if not isinstance(value, str):
        raise wrong_type(name, "a text")
    return value


def question_text(handler: ResponsesHandler, record: Mapping[str, Any], name: str) -> str:
    """The text of a required field that must not be empty: the question."""
    text = required_text(handler, record, name)
    if not text:
        raise empty_prompt(name)
    return text


def only_item(value: Any) -> Any:
    """The item of a list of one; any other value unchanged."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def missing(handler: ResponsesHandler, name: str) -> RecordError:
    """The error for a missing field."""
    needs = ", ".join(getattr(handler, key) for key in handler.required)
    reason = f"field {name!r} is missing"
    return RecordError(reason, f"{reason}; {type(handler).__name__} needs {needs}")


def wrong_type(name: str, expected: str) -> RecordError:
    """The error for a field with a value of the wrong type."""
    return RecordError(f"field {name!r} must be {expected}")


def empty_prompt(name: str) -> RecordError:
    """The error for a record without a question."""
    return RecordError("empty prompt", f"field {name!r} is empty: there is nothing to answer")


def tie(message: str) -> RecordError:
    """The error for a record that prefers neither response."""
    return RecordError("neither response is preferred", f"neither response is preferred: {message}")
