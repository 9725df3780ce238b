"""A loaded reward model that scores token ids: what every command, the Scorer and a server share."""

import dataclasses
import itertools
import math
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import ONEDNN_ROWS, Platform, detect_platform, is_cpu
from modellink_rm.batching.batch import Batch
from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.checkpoint.load import load_for_scoring
from modellink_rm.config.places import flags_of_all
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.dataset.example import Example
from modellink_rm.inference.plan import ScoringPlan
from modellink_rm.inference.shared_prompts import MergedExample, merge_prompts
from modellink_rm.model.kernel_choice import check_requested_kernels
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.agreement import check_agreed
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import Ranks, process_groups
from modellink_rm.parallel.pipeline import forward_scores, micro_batches_multiple_of

# Of each response of an example the model's outputs: its score, or one for each attribute.
ExampleOutputs = tuple[tuple[float, ...], ...]

# Tokens of a forward pass from which on more are no faster: a CPU is busy with few, a GPU is not.
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 2048, 32768


class ScoringModel:
    """The model of a plan in this process's groups, from the start to `close`.

    Attributes:
        ranks: of this process.
        packing: how examples become forward passes; `packing.max_tokens` is the budget of one.
    """

    def __init__(self, plan: ScoringPlan) -> None:
        """Start the process groups and load the model.

        Raises:
            UserError: this process has process groups already, or a kernel does not work here.
        """
        if torch.distributed.is_initialized():
            raise UserError(
                "torch.distributed runs in this process already, as of a Scorer that is open: close it first"
            )
        options = plan.options
        platform = detect_platform(
            options.parallel.distributed_backend,
            tensor_parallel_size=options.parallel.tensor_model_parallel_size,
            deterministic=options.kernels.deterministic,
        )
        check_requested_kernels(
            options.kernels,
            platform,
            shape=plan.model.spec.shape,
            dtype=PrecisionConfig(bf16=plan.bf16).dtype,
            dropout=0.0,
        )
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._platform = platform
        self._normalization = plan.normalization
        self._attributes = plan.attributes
        with ExitStack() as resources:
            groups = process_groups(options.parallel, platform, seed=options.scorer.seed)
            self.ranks: Ranks = resources.enter_context(groups)
            if self.ranks.world_size > 1:
                check_agreed(_of_all(plan))
            self._chunks: list[RewardModel] = _loaded(plan, platform, self.ranks)
            self.packing = _packing(plan, platform, self._chunks)
            self._resources = resources.pop_all()

    def score_examples(self, examples: Sequence[Example]) -> list[tuple[float, ...]]:
        """Scores of each example's responses or steps, in its order, normalized; as `outputs_of`."""
        return [self.scores_of(outputs) for outputs in self.outputs_of(examples)]

    def scores_of(self, outputs: ExampleOutputs) -> tuple[float, ...]:
        """Scores of responses from what the model says of each: weighted and normalized as the plan says."""
        scores = tuple(self._attributes.score(one) for one in outputs)
        return scores if self._normalization is None else self._normalization.apply(scores)

    def outputs_of(self, examples: Sequence[Example]) -> list[ExampleOutputs]:
        """What the model says of each example's responses, in its order.

        A collective: every process gives the same examples and gets all outputs. A prompt that several
        examples have is computed once. Threads take turns.

        Raises:
            UserError: as `check_usable`.
            AgreedError: the processes were given other examples.
        """
        self.check_usable()
        with self._lock, self._platform.of_this_thread():
            self.check_usable()
            return self._outputs(examples) if examples else []

    def check_usable(self) -> None:
        """Check that this process may call the model.

        Raises:
            UserError: the model is closed, or another process opened it: a forked one lacks the threads of
                torch and of gloo, and would wait for ever.
        """
        if os.getpid() != self._process:
            raise UserError(
                "a Scorer is of the process that opened it: open one in each, started by "
                "multiprocessing.get_context('spawn')"
            )
        if not self._chunks:
            raise UserError("the Scorer is closed")

    def close(self) -> None:
        """End the process groups; a second call does nothing."""
        with self._lock:
            self._chunks = []
            self._resources.close()

    def _outputs(self, examples: Sequence[Example]) -> list[ExampleOutputs]:
        if self.ranks.world_size > 1:
            check_agreed({"records": _crc32_of(examples)})
        merged = self._merged(examples)
        number, batches = micro_batches_of([one.example for one in merged], self.packing, self.ranks)
        on_device = (batch.to(self._platform.device) for batch in batches)
        scored = forward_scores(self._chunks, on_device, num_micro_batches=number) if number else []
        mine: dict[tuple[int, int], ExampleOutputs] = {}
        for scores, batch in scored:
            rows = scores.view(-1, len(self._attributes.weights)).tolist()
            mine.update(_by_place(rows, batch, merged))
        gathered: list[dict[tuple[int, int], ExampleOutputs]] = [{}] * self.ranks.world_size
        torch.distributed.all_gather_object(gathered, mine if self.ranks.reports_scores else {})
        found = {place: outputs for part in gathered for place, outputs in part.items()}
        return [
            tuple(one for place in range(len(example.responses)) for one in found[number, place])
            for number, example in enumerate(examples)
        ]

    def _merged(self, examples: Sequence[Example]) -> list[MergedExample]:
        """What is computed: one example of each prompt, where prompts can be shared."""
        if self.packing.share_prefixes:
            return merge_prompts(examples, max_tokens=self.packing.max_tokens)
        return [
            MergedExample(
                Example(number, example.responses),
                tuple((number, place) for place in range(len(example.responses))),
            )
            for number, example in enumerate(examples)
        ]


def _of_all(plan: ScoringPlan) -> dict[str, Any]:
    """What the scorer of every process must have alike: flags, tokenizer, template and weights."""
    options, source = plan.options, plan.model.source
    return {
        **flags_of_all(*(getattr(options, field.name) for field in dataclasses.fields(options))),
        "tokenizer": plan.inputs.tokenizer.fingerprint,
        "template": plan.inputs.template.fingerprint,
        # Those of a checkpoint are compared when it is loaded.
        "weights of --load": source.hugging_face and source.reference.fingerprint,
    }


def _crc32_of(examples: Sequence[Example]) -> int:
    """A checksum of the token ids of all responses, and of where they and their steps end."""
    found = 0
    for example in examples:
        for response in example.responses:
            found = zlib.crc32(repr((len(response.input_ids), response.step_ends)).encode(), found)
            found = zlib.crc32(np.ascontiguousarray(response.input_ids).tobytes(), found)
    return found


def _loaded(plan: ScoringPlan, platform: Platform, ranks: Ranks) -> list[RewardModel]:
    options = plan.options
    with ending_together():
        return load_for_scoring(
            plan.model,
            platform,
            model=options.model,
            parallel=options.parallel,
            precision=PrecisionConfig(bf16=plan.bf16),
            kernels=options.kernels,
            seed=options.scorer.seed,
            ranks=ranks,
            verifies=options.scorer.verify_checksums,
        )


def _packing(plan: ScoringPlan, platform: Platform, chunks: Sequence[RewardModel]) -> Packing:
    parallel = plan.options.parallel
    default = _TOKENS_ON_CPU if is_cpu(platform.device) else _TOKENS_ON_GPU
    divisible_by = parallel.tokens_divisible_by()
    if chunks[0].config.kernels.cpu_inference:
        # Each process's share of the tokens, too.
        shares = parallel.context_parallel_size
        shares *= parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
        divisible_by = math.lcm(divisible_by, ONEDNN_ROWS * shares)
    return Packing(
        max_tokens=plan.options.scorer.tokens_of_a_pass(plan.inputs.seq_length, default=default),
        divisible_by=divisible_by,
        share_prefixes=plan.share_prefixes,
        multiple_of=micro_batches_multiple_of(chunks),
        equal_numbers=parallel.expert_group_size > 1,  # replicas that share experts score together
    )


def _by_place(
    outputs: Sequence[Sequence[float]], batch: Batch, merged: Sequence[MergedExample]
) -> Iterator[tuple[tuple[int, int], ExampleOutputs]]:
    """The outputs of each response of a micro-batch, or of its steps, with the place that they belong to."""
    rest = map(tuple, outputs)
    for name in batch.names:
        one = merged[name.row]
        for place, response in zip(one.places, one.example.responses, strict=True):
            yield place, tuple(itertools.islice(rest, len(response.scored_tokens)))
