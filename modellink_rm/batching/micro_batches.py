"""This replica's share of a global batch, as packed micro-batches in host memory."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.batching.head_dropout import HeadDropout
from modellink_rm.batching.planner import plan_micro_batches, plan_replicas
from modellink_rm.dataset.example import Example
from modellink_rm.parallel.groups import Ranks


@dataclass(frozen=True)
class Packing:
    """How examples are packed into micro-batches.

    Attributes:
        max_tokens: most tokens that a micro-batch computes; a longer example gets its own micro-batch.
        divisible_by: the length of a micro-batch is a multiple of this.
        share_prefixes: store the prompt of an example once if all its responses share it.
        multiple_of: the number of micro-batches is a multiple of this.
        equal_numbers: every replica has equally many, some of them perhaps without examples: processes of
            several replicas that share experts compute every micro-batch together.
        predicts_answers: every token of the answers is scored, for a language model.
    """

    max_tokens: int
    divisible_by: int
    share_prefixes: bool
    multiple_of: int = 1
    equal_numbers: bool = False
    predicts_answers: bool = False


def micro_batches_of(
    examples: Sequence[Example],
    packing: Packing,
    ranks: Ranks,
    *,
    head_dropout: HeadDropout | None = None,
    consumed_samples: int = 0,
) -> tuple[int, Iterator[Batch]]:
    """The number of this replica's micro-batches, and an iterator that makes them one by one.

    Every process computes the same division of the whole global batch; the number is 0 only if there are
    fewer examples than replicas.

    Args:
        head_dropout: in training.
        consumed_samples: the number of the first example among the samples of the run, for dropout.
    """
    shares = plan_replicas(examples, ranks.dp_size, share_prefixes=packing.share_prefixes)
    groups = _groups_of(examples, shares[ranks.dp_rank], packing)
    if packing.equal_numbers:
        most = max(len(_groups_of(examples, share, packing)) for share in shares)
        groups = groups + [[]] * (most - len(groups))
    num_steps = sum(example.num_labelled_steps for example in examples)

    def packed(group: Sequence[int]) -> Batch:
        batch = pack_examples(
            [examples[position] for position in group],
            divisible_by=packing.divisible_by,
            share_prefixes=packing.share_prefixes,
            step_weight=len(examples) / num_steps if num_steps else 1.0,
            predicts_answers=packing.predicts_answers,
        ).share(rank=ranks.cp_rank, size=ranks.cp_size)
        if head_dropout is None or not ranks.is_last_stage:
            return batch
        samples = [consumed_samples + position for position in group]
        factors = head_dropout.factors(samples, [examples[position].num_scores for position in group])
        return dataclasses.replace(batch, head_factors=factors)

    return len(groups), map(packed, groups)


def _groups_of(examples: Sequence[Example], share: Sequence[int], packing: Packing) -> list[list[int]]:
    """The examples of each of a replica's micro-batches."""
    return plan_micro_batches(
        examples,
        share,
        packing.max_tokens,
        share_prefixes=packing.share_prefixes,
        multiple_of=packing.multiple_of,
    )
