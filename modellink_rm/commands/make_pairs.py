"""python -m modellink_rm make-pairs: preference pairs of the scored responses to each prompt."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.output import prepare_rows
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.selection import MakePairsConfig
from modellink_rm.generation.rows import OF_EACH_RESPONSE
from modellink_rm.inference.scored_rows import Counts, Row, ScoredList, lists_of, write_rows
from modellink_rm.records import input_files, read_records


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when pairs are written.

    Raises:
        UserError: the input cannot be read, or no pair is left.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        [MakePairsConfig],
        prog="python -m modellink_rm make-pairs",
        description="Make preference pairs of the scored responses to each prompt, for preprocess_data.py.",
        usage="--input SCORES [--output FILE]",
        example="python -m modellink_rm make-pairs --input scores.jsonl --min-margin 1 --output pairs.jsonl",
    )
    config: MakePairsConfig = parsed[MakePairsConfig]
    prepare_rows(config.output, inputs=input_files(config.input))
    counts = Counts(what="rows and pairs")
    lists = lists_of(read_records(config.input, config), config, counts)
    write_rows(_pairs(lists, config, counts), config.output, counts)
    return 0


def _pairs(lists: Iterator[ScoredList], config: MakePairsConfig, counts: Counts) -> Iterator[Row]:
    """The pairs of each prompt, of the best response first, under the names that handlers read."""
    for one in lists:
        if len(one.scores) < 2:
            counts.dropped["one response"] += 1
        for better, worse in _places(one, config.pairs):
            margin = one.scores[better] - one.scores[worse]
            reason = _reason(one, better, worse, margin, config)
            if reason is not None:
                counts.dropped[reason] += 1
                continue
            yield {
                **one.fields_of((better, worse), of_each_response=OF_EACH_RESPONSE),
                "chosen": one.responses[better],
                "rejected": one.responses[worse],
                "score_chosen": one.scores[better],
                "score_rejected": one.scores[worse],
                "margin": margin,
            }


def _places(one: ScoredList, pairs: str) -> Iterator[tuple[int, int]]:
    places = one.best_first
    if len(places) < 2:
        return
    if pairs == "best-worst":
        yield places[0], places[-1]
    elif pairs == "best-others":
        yield from ((places[0], other) for other in places[1:])
    else:
        yield from combinations(places, 2)


def _reason(one: ScoredList, better: int, worse: int, margin: float, config: MakePairsConfig) -> str | None:
    """Why a pair is dropped; None if it is written."""
    if one.responses[better] == one.responses[worse]:
        return "equal responses"
    if margin <= 0:
        return "equal scores"
    if not math.isfinite(margin):
        return "margin beyond the largest number"
    if margin < config.min_margin:
        return f"margin below --min-margin {config.min_margin:g}"
    if config.max_margin is not None and margin > config.max_margin:
        return f"margin above --max-margin {config.max_margin:g}"
    return None


COMMANDS.add(Command(summary="make preference pairs of scored responses", main=main), "make-pairs")
