"""A held-out set to scored pairs, by the scorer that every command uses."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from modellink_rm.base.errors import AgreedError
from modellink_rm.base.log import info
from modellink_rm.conversation import Unranked
from modellink_rm.evaluation.inputs import NamedInput
from modellink_rm.evaluation.pairs import EvaluatedPairs, PairCollector
from modellink_rm.evaluation.sets import RecordCounts, SwapCheck, swap_check
from modellink_rm.inference.record_tokenizer import PlacedConversation
from modellink_rm.inference.result import NotScored, Scored
from modellink_rm.records import BadRecord, Record, parse_record

RECORDS_AT_A_TIME = 512
NUM_SWAPPED = 256
_BAD_RECORDS_SHOWN = 10
NOT_A_PAIR = "not a pair"


class ScoresItems(Protocol):
    """The method of `Scorer` that evaluation needs."""

    def results(self, items: Sequence[Record | BadRecord | PlacedConversation]) -> list[Scored | NotScored]:
        """The result of each item, in order, equal on all processes."""


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """The pairs of a set with their scores, at least one."""

    pairs: EvaluatedPairs
    records: RecordCounts
    swap: SwapCheck


@dataclass
class _Progress:
    """What is known of the records so far."""

    collector: PairCollector = field(default_factory=PairCollector)
    not_scored: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    total: int = 0
    to_swap: list[tuple[PlacedConversation, tuple[float, ...]]] = field(default_factory=list)

    def add(self, place: str, result: Scored | NotScored) -> None:
        if isinstance(result, Scored) and not result.is_pair:
            result = NotScored(
                NOT_A_PAIR, f"{place}: {NOT_A_PAIR}: --data takes one preferred response of two"
            )
        if isinstance(result, NotScored):
            self.not_scored[result.reason] += 1
            if self.not_scored.total() <= _BAD_RECORDS_SHOWN:
                info(f"warning: {result.message}")
        else:
            self.truncated += result.is_truncated
            self.collector.add(self.total, result)
            if len(self.to_swap) < NUM_SWAPPED:
                self.to_swap.append((_exchanged(place, result), result.scores))
        self.total += 1


def score_set(
    scorer: ScoresItems,
    named: NamedInput,
    *,
    took: Callable[[int, int], object] = lambda num_records, num_bytes: None,
) -> ScoredSet:
    """The scores of all pairs of a set; a collective, with equal results on all processes.

    Args:
        took: told how many records were done, and the bytes of their texts.

    Raises:
        AgreedError: no record is a pair with finite scores.
    """
    progress = _Progress()
    records = named.raw_records()
    while block := list(islice(records, RECORDS_AT_A_TIME)):
        for record, result in zip(block, scorer.results(list(map(parse_record, block))), strict=True):
            progress.add(record.place, result)
        took(len(block), sum(len(record.text) for record in block))
    if not progress.to_swap:
        reasons = ", ".join(f"{count} {reason}" for reason, count in progress.not_scored.most_common(3))
        raise AgreedError(
            f"{named.flag} {named.name}={named.path}: no pair has scores ({reasons or 'no record'})"
        )
    num_more = progress.not_scored.total() - _BAD_RECORDS_SHOWN
    if num_more > 0:
        info(f"... and {num_more:,} more records of {named.name} that are not scored")
    return ScoredSet(
        pairs=progress.collector.pairs(),
        records=RecordCounts(
            total=progress.total, truncated=progress.truncated, not_scored=dict(progress.not_scored)
        ),
        swap=_swapped(scorer, progress.to_swap),
    )


def _swapped(scorer: ScoresItems, pairs: list[tuple[PlacedConversation, tuple[float, ...]]]) -> SwapCheck:
    """The check of these pairs, given each with its scores; a collective.

    Raises:
        AgreedError: a score is not finite, although the pair's were.
    """
    swapped = []
    for result in scorer.results([exchanged for exchanged, _ in pairs]):
        if isinstance(result, NotScored):
            raise AgreedError(f"{result.message} when its responses are exchanged")
        swapped.append(result.scores)
    return swap_check([scores for _, scores in pairs], swapped)


def _exchanged(place: str, result: Scored) -> PlacedConversation:
    """The conversation of a pair with its responses in the other order."""
    given = result.conversation
    return PlacedConversation(
        place,
        Unranked(
            system=given.system, tools=given.tools, prompt=given.prompt, responses=given.responses[::-1]
        ),
    )
