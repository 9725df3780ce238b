"""Loss, metrics and scores over held-out examples, each read once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from numpy.typing import NDArray
from torch import Tensor

from modellink_rm.batching.batch import Batch
from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.dataset.blend import Part
from modellink_rm.dataset.example import Example, RowName
from modellink_rm.metrics.accuracy import pair_credits, ranked_pairs
from modellink_rm.model.heads.language_model import entropies_given
from modellink_rm.objective.objective import Objective
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.data_sets import DataSetMetrics, DataSets, ExampleFigures
from modellink_rm.train.optimizer import synced_params
from modellink_rm.train.sums import Summary, no_sums, sum_over_processes, summary_of, sums_of

MOST_SOURCES = 40


@dataclass(frozen=True, kw_only=True)
class EvaluatedExample:
    """What is kept of an example of an evaluation.

    Attributes:
        ranks: of the responses, from 1 for the best, equal for a tie.
        num_tokens: of each response, without its prompt.
        num_scores: one for each response, or for each of its steps.
    """

    name: RowName
    source: str
    ranks: tuple[int, ...]
    num_tokens: tuple[int, ...]
    num_scores: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of a held-out set, equal on every process.

    Attributes:
        set: its name.
        examples: in the order of the part.
        scores: float32, of each example's responses, best first, or of the steps of its response.
        by_source: metrics of the examples of each source; {} where no example names one.
        by_data_set: metrics of the examples of each data set; {} where there is one.
    """

    set: str
    summary: Summary
    examples: tuple[EvaluatedExample, ...]
    scores: tuple[NDArray[np.float32], ...]
    by_source: Mapping[str, dict[str, float]]
    by_data_set: DataSetMetrics = field(default_factory=dict)


def evaluate(
    chunks: Sequence[DistributedDataParallel],
    part: Part,
    objective: Objective,
    *,
    name: str,
    batch_size: int,
    packing: Packing,
    ranks: Ranks,
    device: torch.device,
) -> Evaluation:
    """The evaluation of the examples of `part`, at least one; a collective over all processes.

    Args:
        chunks: the process's stage or virtual stages.
        name: of the set.
        batch_size: number of examples that are divided over replicas and micro-batches at a time.
    """
    sums, data_sets = no_sums(objective, device), DataSets(part)
    by_data_set = data_sets.no_sums(device)
    found = FoundScores(device=device)
    for chunk in chunks:
        chunk.eval()
    with synced_params(chunks), entropies_given(chunks):
        for start in range(0, len(part), batch_size):
            examples = [part[index] for index in range(start, min(start + batch_size, len(part)))]
            found.begin(examples)
            number, batches = micro_batches_of(examples, packing, ranks)
            if not number:
                continue  # fewer examples than replicas
            on_device = (batch.to(device) for batch in batches)
            for scores, batch in forward_scores(chunks, on_device, num_micro_batches=number):
                if ranks.reports_scores:
                    result = objective(scores, batch.targets)
                    sums += sums_of(result, batch)
                    by_data_set += data_sets.sums([ExampleFigures.of(result, batch)], device)
                    found.add(objective.reported(scores, batch.targets), batch)
    for chunk in chunks:
        chunk.train()
    total = sums.joined(by_data_set).over_processes()
    examples_of_part, scores_of_part = tuple(found.examples), found.over_processes()
    return Evaluation(
        set=name,
        summary=summary_of(total, objective),
        examples=examples_of_part,
        scores=scores_of_part,
        by_source=metrics_by_source(examples_of_part, scores_of_part),
        by_data_set=data_sets.metrics(total),
    )


@dataclass
class FoundScores:
    """The scores that this process has computed, at their places among those of all examples."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    examples: list[EvaluatedExample] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    places: dict[RowName, range] = field(default_factory=dict)

    def begin(self, examples: Sequence[Example]) -> None:
        """Make room for the scores of these examples."""
        self.places, end = {}, 0
        for one in examples:
            self.places[one.name] = range(end, end + one.num_scores)
            end += one.num_scores
            num_tokens = tuple(len(each.input_ids) - each.num_prompt_tokens for each in one.responses)
            self.examples.append(
                EvaluatedExample(
                    name=one.name,
                    source=one.source,
                    ranks=one.ranks,
                    num_tokens=num_tokens,
                    num_scores=one.num_scores,
                )
            )
        self.blocks.append(torch.zeros(end, dtype=self.dtype, device=self.device))

    def add(self, scores: Tensor, batch: Batch) -> None:
        """Take in the scores of a micro-batch of these examples: of several attributes the first's."""
        places = [place for name in batch.names for place in self.places[name]]
        values = scores if scores.dim() == 1 else scores[:, 0]
        self.blocks[-1][torch.tensor(places, dtype=torch.int64, device=self.device)] = values.to(self.dtype)

    def over_processes(self) -> tuple[NDArray[Any], ...]:
        """The scores of every example; a collective. Each one was computed by one replica."""
        flat = sum_over_processes(torch.cat(self.blocks)).cpu().numpy()
        ends = np.cumsum([one.num_scores for one in self.examples])
        return tuple(np.split(flat, ends[:-1]))


def metrics_by_source(
    examples: Sequence[EvaluatedExample], scores: Sequence[NDArray[np.float32]]
) -> dict[str, dict[str, float]]:
    """Accuracy, mean margin and number of the examples of each of the 40 largest sources, by name.

    As in the metrics of all examples, one with several pairs of different ranks counts with their mean.
    """
    counts = Counter(one.source for one in examples if one.source)
    found = {}
    for source, count in sorted(counts.most_common(MOST_SOURCES)):
        of_source = [
            (values[better].astype(np.float64), values[worse].astype(np.float64))
            for one, values in zip(examples, scores, strict=True)
            if one.source == source
            for better, worse in [ranked_pairs(one.ranks)]
            if len(better)
        ]
        if of_source:
            credits = [pair_credits(better, worse).mean() for better, worse in of_source]
            margins = [(better - worse).mean() for better, worse in of_source]
            found[source] = {
                "accuracy": float(np.mean(credits)),
                "margin": float(np.mean(margins)),
                "examples": count,
            }
    return found
