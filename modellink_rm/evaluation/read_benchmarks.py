"""The files of benchmarks to rows, all checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Stepwise, Unranked
from modellink_rm.evaluation.benchmarks.benchmark import BENCHMARKS, Benchmark, BenchmarkRow
from modellink_rm.evaluation.inputs import NamedInput
from modellink_rm.inference.record_tokenizer import PlacedConversation
from modellink_rm.records import BadRecord, RecordError, read_records


@dataclass(frozen=True, kw_only=True)
class BenchmarkInput:
    """The rows of one --benchmark.

    Attributes:
        named: the name of a benchmark, and its path.
        places: of each row, as messages name it.
    """

    named: NamedInput
    benchmark: Benchmark
    rows: tuple[BenchmarkRow, ...]
    places: tuple[str, ...]

    def conversations(self) -> list[PlacedConversation]:
        """Each row as one user's message with its responses, texts as they stand and no system message."""
        return [
            PlacedConversation(place, _conversation(row))
            for row, place in zip(self.rows, self.places, strict=True)
        ]


def _conversation(row: BenchmarkRow) -> Unranked | Stepwise:
    prompt = (Message("user", row.prompt),)
    if row.is_stepwise:
        return Stepwise(system=None, tools="", prompt=prompt, steps=row.responses)
    responses = tuple(Message("assistant", text) for text in row.responses)
    return Unranked(system=None, tools="", prompt=prompt, responses=responses)


def read_benchmarks(inputs: Sequence[NamedInput]) -> list[BenchmarkInput]:
    """The rows of every --benchmark.

    Raises:
        UserError: a benchmark is unknown, given twice with one path, or its rows have not its format.
    """
    for number, named in enumerate(inputs):
        if named in inputs[:number]:
            raise UserError(f"{named.flag} {named.name}={named.path} is there twice")
    return [_read(named) for named in inputs]


def _read(named: NamedInput) -> BenchmarkInput:
    benchmark = BENCHMARKS[named.name]
    rows, places = [], []
    files = named.files()
    if not files:
        raise UserError(f"{named.flag} {named.name}={named.path}: benchmarks are read from local files")
    for file in files:
        for record in read_records(str(file), named.limits, flag=f"{named.flag} {named.name}:"):
            if isinstance(record, BadRecord):
                raise UserError(f"{record.place}: {record.message}")
            try:
                rows.append(benchmark.row(record.fields, file))
            except RecordError as error:
                raise UserError(
                    f"{record.place}: {error}; is this the published file of {named.name}?"
                ) from None
            places.append(record.place)
    if not rows:
        raise UserError(f"{named.flag} {named.name}={named.path} holds no row")
    benchmark.check([row.label for row in rows])
    return BenchmarkInput(named=named, benchmark=benchmark, rows=tuple(rows), places=tuple(places))
