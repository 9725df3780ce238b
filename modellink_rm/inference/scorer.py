"""Scores of rendered responses, by the ids and the position that training used."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modellink_rm.batching.batch import pack_examples
from modellink_rm.dataset.example import Example, Response
from modellink_rm.dataset.split import divide
from modellink_rm.dataset.truncation import truncate
from modellink_rm.inference.inputs import ScoreInput
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores, micro_batches_multiple_of
from modellink_rm.templates.encode import encode_prompt, encode_response, num_closing_tokens
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model with its inference contract.

    Attributes:
        model: this process's stage, or its virtual stages, in evaluation mode.
        seq_length: longest prompt + response, in tokens.
        truncation: "right" or "keep-ends".
        divisible_by: what the length of a packed micro-batch must be a multiple of.
    """

    model: Sequence[torch.nn.Module]
    template: Template
    tokenizer: Tokenizer
    seq_length: int
    truncation: str
    micro_batch_size: int
    divisible_by: int
    device: torch.device
    ranks: Ranks

    def tokenize(self, item: ScoreInput) -> Example:
        """The ids of an input's responses, each with its prompt, truncated as in training.

        Raises:
            RecordError: the template cannot write it, as tools where it has no form for them.
        """
        prompt = encode_prompt(item.system, item.tools, item.turns, self.template, self.tokenizer)
        responses = tuple(
            Response(
                input_ids=np.array(
                    prompt + encode_response(message, self.template, self.tokenizer), dtype=np.int32
                ),
                num_prompt_tokens=len(prompt),
            )
            for message in item.responses
        )
        kept, cut = truncate(
            responses,
            self.seq_length,
            self.truncation,
            num_closing_tokens=num_closing_tokens(self.template, self.tokenizer),
        )
        return Example(index=0, responses=kept, is_truncated=cut.is_truncated)

    def scores(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        """Scores of each example's responses; a collective over all processes, equal on each."""
        mine = divide(range(len(examples)), self.ranks.dp_size)[self.ranks.dp_rank]
        groups = [
            mine[start : start + self.micro_batch_size]
            for start in range(0, len(mine), self.micro_batch_size)
        ]
        groups += [mine[:0]] * (-len(groups) % micro_batches_multiple_of(self.model))
        packed = (
            pack_examples([examples[number] for number in numbers], divisible_by=self.divisible_by).part(
                rank=self.ranks.cp_rank, size=self.ranks.cp_size
            )
            for numbers in groups
        )
        batches = (batch.to(self.device) for batch in packed)
        scored = forward_scores(self.model, batches, num_micro_batches=len(groups)) if groups else []
        values = (value for scores, _ in scored for value in scores.tolist())
        found = {
            number: tuple(itertools.islice(values, len(examples[number].responses)))
            for number in (mine if scored else ())
        }
        gathered: list[dict[int, tuple[float, ...]]] = [{}] * self.ranks.world_size
        torch.distributed.all_gather_object(gathered, found if self.ranks.reports_scores else {})
        everything = {number: scores for part in gathered for number, scores in part.items()}
        return [everything[number] for number in range(len(examples))]
