"""The scorer: records to scores, with the same token ids and scored positions as in training."""

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.checkpoint.load import build_and_load_model
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.scorer import scorer_options
from modellink_rm.dataset.example import Example
from modellink_rm.dataset.split import divide
from modellink_rm.inference.plan import ScoringPlan, plan_scoring
from modellink_rm.inference.record_tokenizer import PlacedConversation, ScoringInput
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.model.kernel_choice import choose_kernels
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import Ranks, process_groups
from modellink_rm.parallel.pipeline import forward_scores, micro_batches_multiple_of
from modellink_rm.records import BadRecord, Record


class Scorer:
    """A reward model that scores records, which it reads as its training data was read.

        with Scorer.open("checkpoints/llama2") as scorer:
            scorer.score([{"prompt": "the cat", "response": "sings"}])

    It holds torch.distributed's process groups until it is closed, so a process has one at a time. Under
    torchrun every process opens it and calls it with the same records.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        """Start the process groups and load the model; `open` is simpler.

        Raises:
            UserError: this process has process groups already, or a kernel does not work here.
        """
        if torch.distributed.is_initialized():
            raise UserError(
                "torch.distributed runs in this process already, as of a Scorer that is open: close it first"
            )
        self._plan = plan
        options = plan.options
        platform = detect_platform(options.parallel.distributed_backend)
        precision = PrecisionConfig(bf16=plan.bf16)
        kernels = choose_kernels(
            options.kernels,
            platform,
            shape=plan.model.spec.shape,
            dtype=precision.dtype,
            dropout=0.0,
            num_steps=0,
        )
        seed = options.scorer.seed
        self._device = platform.device
        with ExitStack() as resources:
            groups = process_groups(options.parallel, platform, seed=seed)
            self._ranks: Ranks = resources.enter_context(groups)
            with ending_together():
                chunks = build_and_load_model(
                    plan.model,
                    model=options.model,
                    parallel=options.parallel,
                    precision=precision,
                    kernels=kernels,
                    seed=seed,
                    ranks=self._ranks,
                    verifies=options.scorer.verify_checksums,
                )
            self._model = [chunk.eval() for chunk in chunks]
            self._resources = resources.pop_all()

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

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[float | list[float]]:
        """The score of each record with one response, a list of scores for several.

        The list is in the record's order; of a pair the preferred response comes first. A collective: every
        process of a torchrun gives the same records and gets all scores.

        Raises:
            UserError: a record cannot be used, and nothing is scored; or a score is not finite.
        """
        inputs = [self._plan.inputs(Record(f"records[{i}]", dict(one))) for i, one in enumerate(records)]
        _check_all_scored(inputs)
        results = self._scored(inputs)
        _check_all_scored(results)
        lists = [result.in_record_order for result in results if isinstance(result, Scored)]
        return [scores[0] if len(scores) == 1 else scores for scores in lists]

    def results(self, items: Sequence[Record | BadRecord | PlacedConversation]) -> list[Scored | NotScored]:
        """The result of each item, in order; a collective, with equal results on all processes."""
        return self._scored([self._plan.inputs(item) for item in items])

    def close(self) -> None:
        """End the process groups; a second call does nothing."""
        self._model = []
        self._resources.close()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scored(self, inputs: Sequence[ScoringInput | NotScored]) -> list[Scored | NotScored]:
        if not self._model:
            raise UserError("the Scorer is closed")
        examples = [item.example for item in inputs if isinstance(item, ScoringInput)]
        scores = iter(self._scores(examples) if examples else ())
        return [_result(item, next(scores)) if isinstance(item, ScoringInput) else item for item in inputs]

    def _scores(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        """Scores of each example's responses; a collective over all processes, with equal results on each."""
        ranks, options = self._ranks, self._plan.options
        size = options.scorer.micro_batch_size
        mine = divide(range(len(examples)), ranks.dp_size)[ranks.dp_rank]
        groups = [mine[start : start + size] for start in range(0, len(mine), size)]
        if options.parallel.expert_group_size > 1:  # replicas that share experts score together
            groups += [mine[:0]] * (-(-len(examples) // (ranks.dp_size * size)) - len(groups))
        groups += [mine[:0]] * (-len(groups) % micro_batches_multiple_of(self._model))
        packed = (
            pack_examples(
                [examples[number] for number in numbers],
                divisible_by=options.parallel.tokens_divisible_by(),
                share_prefixes=self._plan.share_prefixes,
            ).share(rank=ranks.cp_rank, size=ranks.cp_size)
            for numbers in groups
        )
        batches = (batch.to(self._device) for batch in packed)
        scored = forward_scores(self._model, batches, num_micro_batches=len(groups)) if groups else []
        values = (value for scores, _ in scored for value in scores.tolist())
        found = {
            number: tuple(itertools.islice(values, len(examples[number].responses)))
            for number in (mine if scored else ())
        }
        gathered: list[dict[int, tuple[float, ...]]] = [{}] * ranks.world_size
        torch.distributed.all_gather_object(gathered, found if ranks.reports_scores else {})
        everything = {number: scores for part in gathered for number, scores in part.items()}
        return [everything[number] for number in range(len(examples))]


def _check_all_scored(items: Sequence[ScoringInput | Scored | NotScored]) -> None:
    """Every record has what it needs.

    Raises:
        UserError: the first one that has not.
    """
    for item in items:
        if isinstance(item, NotScored):
            raise UserError(item.message)


def _result(item: ScoringInput, scores: tuple[float, ...]) -> Scored | NotScored:
    if all(map(math.isfinite, scores)):
        return Scored(item.conversation, scores, item.example.is_truncated)
    return NotScored(NOT_FINITE, f"{item.place}: {NOT_FINITE}")
