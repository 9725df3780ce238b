"""python -m modellink_rm best-of-n: the best of the scored responses to each prompt, or all ranked."""

from collections.abc import Iterator, Sequence

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.commands.output import prepare_rows
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.selection import BestOfNConfig
from modellink_rm.generation.rows import OF_EACH_RESPONSE
from modellink_rm.inference.rows import SCORE, SCORES
from modellink_rm.inference.scored_rows import Counts, Row, ScoredList, lists_of, write_rows
from modellink_rm.records import input_files, read_records


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when rows are written.

    Raises:
        UserError: the input cannot be read, or no row is left.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        [BestOfNConfig],
        prog="python -m modellink_rm best-of-n",
        description="Pick the best of the scored responses to each prompt, or rank them.",
        usage="--input SCORES [--output FILE]",
        example="python -m modellink_rm best-of-n --input scores.jsonl --output best.jsonl",
    )
    config: BestOfNConfig = parsed[BestOfNConfig]
    prepare_rows(config.output, inputs=input_files(config.input))
    counts = Counts()
    lists = lists_of(read_records(config.input, config), config, counts)
    write_rows(_rows(lists, config), config.output, counts)
    return 0


def _rows(lists: Iterator[ScoredList], config: BestOfNConfig) -> Iterator[Row]:
    for one in lists:
        places = [place for place in one.best_first if config.n is None or place < config.n]
        places = places if config.rank else places[:1]
        responses = [one.responses[place] for place in places]
        scores = [one.scores[place] for place in places]
        fields = one.fields_of(places, of_each_response=OF_EACH_RESPONSE)
        if config.rank:
            yield {**fields, config.responses: responses, SCORES: scores, "places": places}
        else:
            yield {**fields, config.response: responses[0], SCORE: scores[0], "place": places[0]}


COMMANDS.add(Command(summary="pick or rank the scored responses to each prompt", main=main), "best-of-n")
