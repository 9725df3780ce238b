"""The scorer: records to scores, with the same token ids and scored positions as in training."""

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.errors import UserError
from modellink_rm.config.scorer import scorer_options
from modellink_rm.conversation import Conversation
from modellink_rm.dataset.example import Example
from modellink_rm.inference.plan import ScoringPlan, plan_scoring
from modellink_rm.inference.record_tokenizer import PlacedConversation, RecordTokenizer, ScoringInput
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.inference.scoring_model import ExampleOutputs, ScoringModel
from modellink_rm.metrics.steps import AGGREGATES, probability_of
from modellink_rm.records import BadRecord, Record

Fields = Mapping[str, Any]
Result = TypeVar("Result")


class Scorer:
    """A reward model that scores records, which it reads as its training data was read.

        with Scorer.open("checkpoints/llama2") as scorer:
            scorer.score([{"prompt": "the cat", "response": "sings"}])

    It holds torch.distributed's process groups until it is closed, so a process has one at a time. Under
    torchrun every process opens it and calls it with the same records, in the same order. Several threads may
    call it: reading records and computing scores each take turns.

    Attributes:
        model: scores examples of token ids.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        """Start the process groups and load the model; `open` is simpler.

        Raises:
            UserError: this process has process groups already, or a kernel does not work here.
        """
        self.plan = plan
        self.model = ScoringModel(plan)
        self._reading = threading.Lock()  # templates of Jinja are rendered by one process
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    @classmethod
    def open(cls, load: str | Path, **options: Any) -> "Scorer":
        """A scorer with the weights of `load`: a checkpoint of this package, or a Hugging Face directory.

        Args:
            load: a --save directory, one of its iter_ directories, or a Hugging Face directory.
            options: the flags of the command score as keywords, such as prompt_type="llama2",
                handler_name=..., map_keys={...} or tensor_model_parallel_size=2. A checkpoint needs none.

        Raises:
            UserError: an option, the weights or the tokenizer cannot work.
        """
        return cls(plan_scoring(scorer_options(str(load), options)))

    def score(self, records: Sequence[Fields]) -> list[float | list[float]]:
        """The score of each record with one response, a list of scores for several.

        The list is in the record's order; of a pair the preferred response comes first. A collective: every
        process of a torchrun gives the same records and gets all scores.

        Raises:
            UserError: a record cannot be used, and nothing is scored; or a score is not finite.
        """
        lists = [result.in_record_order for result in self._all_scored(records)]
        return [scores[0] if len(scores) == 1 else scores for scores in lists]

    def rank(self, records: Sequence[Fields]) -> list[list[int]]:
        """The places of each record's responses in its own order, best first; a tie keeps that order.

        Raises:
            UserError: as `score`.
        """
        lists = [result.in_record_order for result in self._all_scored(records)]
        return [sorted(range(len(scores)), key=lambda place: -scores[place]) for scores in lists]

    def compare(self, records: Sequence[Fields]) -> list[float]:
        """How likely the first response of each record is the better one: sigmoid of the scores' difference.

        That is the probability of the loss `sigmoid` (Bradley and Terry 1952), of scores that are not
        normalized. Of a pair the preferred response is the first.

        Raises:
            UserError: as `score`; or a record has one response, or more than two.
        """
        results = self._all_scored(records)
        for number, result in enumerate(results):
            if len(result.scores) != 2:
                raise UserError(f"records[{number}] has {len(result.scores)} responses: two are compared")
        unit = self.plan.normalization.std if self.plan.normalization is not None else 1.0
        differences = [(one[0] - one[1]) * unit for one in (result.in_record_order for result in results)]
        return [probability_of(difference) for difference in differences]

    async def score_async(self, records: Sequence[Fields]) -> list[float | list[float]]:
        """As `score`, while the event loop goes on; for a scorer of one process."""
        return await self._in_background(self.score, records)

    async def rank_async(self, records: Sequence[Fields]) -> list[list[int]]:
        """As `rank`, while the event loop goes on; for a scorer of one process."""
        return await self._in_background(self.rank, records)

    async def compare_async(self, records: Sequence[Fields]) -> list[float]:
        """As `compare`, while the event loop goes on; for a scorer of one process."""
        return await self._in_background(self.compare, records)

    def encode(self, conversation: Conversation) -> Example:
        """The token ids of a conversation, with its template, truncated as in training.

        Raises:
            RecordError: the template has no form for a part of it, or a response has no token.
        """
        with self._reading:
            return self.inputs.example(conversation)

    def score_examples(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        """Scores of each example's responses, in its order, as `ScoringModel.score_examples`."""
        return self.model.score_examples(examples)

    @property
    def inputs(self) -> RecordTokenizer:
        """The handler, the template and the tokenizer."""
        return self.plan.inputs

    def read(
        self, items: Sequence[Record | BadRecord | PlacedConversation]
    ) -> list[ScoringInput | NotScored]:
        """The token ids of each item, or why it has none; in order, and no collective."""
        with self._reading:
            return [self.inputs(item) for item in items]

    def results(self, items: Sequence[Record | BadRecord | PlacedConversation]) -> list[Scored | NotScored]:
        """The result of each item, in order; a collective, with equal results on all processes."""
        return self.results_of(self.read(items))

    def results_of(self, inputs: Sequence[ScoringInput | NotScored]) -> list[Scored | NotScored]:
        """The result of each input that `read` returned, in order; a collective."""
        examples = [item.example for item in inputs if isinstance(item, ScoringInput)]
        outputs = iter(self.model.outputs_of(examples))
        return [
            self._result(item, next(outputs)) if isinstance(item, ScoringInput) else item for item in inputs
        ]

    def _result(self, item: ScoringInput, outputs: ExampleOutputs) -> Scored | NotScored:
        scores, named = self.model.scores_of(outputs), self.plan.attributes.named
        # What is written beside a score counts too, though it may weigh nothing in it.
        written = scores if not self.plan.attributes.names else itertools.chain(scores, *outputs)
        if not all(map(math.isfinite, written)):
            return NotScored(NOT_FINITE, f"{item.place}: {NOT_FINITE}")
        if self.plan.model.spec.scores_steps:
            steps = tuple(map(probability_of, scores))
            score = AGGREGATES[self.plan.options.scorer.aggregate](steps)
            return Scored(item.conversation, (score,), item.example.is_truncated, steps=steps)
        attributes = tuple(map(named, outputs)) if self.plan.attributes.names else ()
        return Scored(item.conversation, scores, item.example.is_truncated, attributes)

    def close(self) -> None:
        """End the process groups; a second call does nothing."""
        self._pool.shutdown()
        self.model.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _all_scored(self, records: Sequence[Fields]) -> list[Scored]:
        """The results of records, all of them scored.

        Raises:
            UserError: names the first one that cannot be used, before any is scored; or whose score is not
                finite.
        """
        self.model.check_usable()
        inputs = self.read(list(_records(records)))
        _check_all_scored(inputs)
        results = self.results_of(inputs)
        _check_all_scored(results)
        return [result for result in results if isinstance(result, Scored)]

    async def _in_background(
        self, call: Callable[[Sequence[Fields]], Result], records: Sequence[Fields]
    ) -> Result:
        import asyncio  # a tenth of a second, which the commands do without

        self.model.check_usable()
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, records)


def _records(given: Sequence[Fields]) -> Iterator[Record]:
    """The records of a call.

    Raises:
        UserError: one is no dict.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"records must be a list of dicts, got a {type(given).__name__}")
    for number, one in enumerate(given):
        if not isinstance(one, Mapping):
            raise UserError(f"records[{number}] must be a dict of its fields, got a {type(one).__name__}")
        yield Record(f"records[{number}]", dict(one))


def _check_all_scored(items: Sequence[ScoringInput | Scored | NotScored]) -> None:
    """Every record has what it needs.

    Raises:
        UserError: the first one that has not.
    """
    for item in items:
        if isinstance(item, NotScored):
            raise UserError(item.message)
