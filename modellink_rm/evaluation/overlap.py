"""Which evaluated records share a long run of words with the training data."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modellink_rm.base.errors import AgreedError
from modellink_rm.conversation import Conversation
from modellink_rm.records import BadRecord, Record, RecordError

NUM_WORDS = 13
# A run of letters and digits, or one character of a script that is written without spaces.
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")

Reader = Callable[[Mapping[str, Any]], Conversation]


@dataclass(frozen=True, kw_only=True)
class TrainingOverlap:
    """The items of a set or benchmark that overlap with the training data.

    Attributes:
        name: of the set or benchmark.
        num_items: records or rows that could be read.
        places: of those that overlap, as messages name them.
        accuracy: the mean credit of these with the model of --load; None where there are none.
        others_accuracy: as `accuracy`, of the other ones.
    """

    name: str
    num_items: int
    places: tuple[str, ...]
    accuracy: float | None
    others_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Item:
    """An evaluated record or row with what is compared of it; `number` is that among all of them."""

    number: int
    place: str
    grams: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class ComparedItems:
    """The items of a set or benchmark, and those of them that overlap with the training data."""

    items: tuple[Item, ...]
    overlapping: tuple[Item, ...]


def grams_of(conversation: Conversation) -> frozenset[int]:
    """Hashes of every 13 words in a row of a prompt's turns and of the responses.

    In lower case and without punctuation, as Brown et al. 2020 (arXiv 2005.14165, appendix C). A prompt of
    fewer words is compared as a whole; a response of fewer is not compared, since such are often equal.
    """
    prompt = [_words(turn.content) for turn in conversation.prompt]
    grams = {hash(gram) for words in prompt for gram in _runs(words)}
    if not grams:
        whole = tuple(word for words in prompt for word in words)
        grams = {hash(whole)} if whole else set()
    grams |= {hash(gram) for answer in conversation.responses for gram in _runs(_words(answer.content))}
    return frozenset(grams)


def items_of(reader: Reader, records: Iterable[Record | BadRecord]) -> Iterator[Item]:
    """The items of the records that can be read."""
    for number, record in enumerate(records):
        conversation = _conversation(reader, record)
        if conversation is not None:
            yield Item(number=number, place=record.place, grams=grams_of(conversation))


def overlapping(
    reader: Reader, training: Iterable[Record | BadRecord], item_lists: Sequence[Sequence[Item]]
) -> list[ComparedItems]:
    """The items of each list, with those that share a gram with a training record.

    Memory grows with the items; the training data is read once.

    Raises:
        AgreedError: no training record can be read.
    """
    wanted = {gram for items in item_lists for item in items for gram in item.grams}
    found: set[int] = set()
    num_read = 0
    for record in training:
        conversation = _conversation(reader, record)
        if conversation is not None:
            num_read += 1
            found |= wanted & grams_of(conversation)
    if not num_read:
        raise AgreedError("--training-data: no record can be read; --handler-name says how")
    return [
        ComparedItems(items=tuple(items), overlapping=tuple(item for item in items if item.grams & found))
        for items in item_lists
    ]


def training_overlap(name: str, compared: ComparedItems, credits: Mapping[int, float]) -> TrainingOverlap:
    """The overlap of a set or benchmark; `credits` are by the number of the item, of those with scores."""
    numbers = {item.number for item in compared.overlapping}
    return TrainingOverlap(
        name=name,
        num_items=len(compared.items),
        places=tuple(item.place for item in compared.overlapping),
        accuracy=_mean(credit for number, credit in credits.items() if number in numbers),
        others_accuracy=_mean(credit for number, credit in credits.items() if number not in numbers),
    )


def _conversation(reader: Reader, record: Record | BadRecord) -> Conversation | None:
    if isinstance(record, BadRecord):
        return None
    try:
        return reader(record.fields)
    except RecordError:
        return None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + NUM_WORDS]) for start in range(len(words) - NUM_WORDS + 1))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
