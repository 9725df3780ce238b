"""A checkpoint written as a Hugging Face directory, by all processes of a torchrun."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, detect_platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.checkpoint.hf.write import finish, write_unfinished
from modellink_rm.checkpoint.load import check_fits, load_for_scoring
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.conversion.check import check_scores
from modellink_rm.conversion.output import making
from modellink_rm.conversion.plan import ExportPlan
from modellink_rm.conversion.samples import Sample
from modellink_rm.dataset.example import Example, Response
from modellink_rm.model.adapting import merge_adapters
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import Ranks, process_groups
from modellink_rm.parallel.pipeline import forward_scores, micro_batches_multiple_of


def export_checkpoint(plan: ExportPlan) -> None:
    """Write the directory, which gets its name when transformers scores it as the checkpoint does.

    Raises:
        UserError: something is there meanwhile, another run is making it, or a score differs.
    """
    platform = detect_platform(plan.parallel.distributed_backend)
    directory = Path(plan.config.output)
    with (
        making(plan.config.output),
        process_groups(plan.parallel, platform, seed=0) as ranks,
        ending_together(),
    ):
        scores, unfinished = _written(plan, platform, ranks)

        def check(unfinished: Path) -> None:
            check_scores(
                unfinished,
                plan.samples,
                _as_written(scores, plan),
                dtypes=(_precision(plan).dtype, plan.contents.dtype),
                rendered=plan.rendered,
                is_language_model=plan.model.spec.is_language_model,
            )

        if plan.checks_scores:
            finish(unfinished, directory, ranks, check=check)
        else:
            finish(unfinished, directory, ranks)
    info(f"wrote {directory}")


def _as_written(scores: Sequence[Sequence[float]], plan: ExportPlan) -> list[list[float]]:
    """What the written head says where the checkpoint says `scores`: transformers' has no bias for a mean."""
    merged = plan.contents.merged
    if merged is None:
        return [list(outputs) for outputs in scores]
    has_bias = bool(plan.contents.form.head_names(plan.model.shape.family).bias)
    return [
        list(merged.apply(outputs)) if has_bias else [score / merged.std for score in outputs]
        for outputs in scores
    ]


def _written(plan: ExportPlan, platform: Platform, ranks: Ranks) -> tuple[list[list[float]], Path]:
    """The samples' outputs, and the directory under its temporary name; the model is freed afterwards."""
    chunks = _loaded(plan, platform, ranks)
    scores = _scores(chunks, plan.samples, plan, platform, ranks) if plan.checks_scores else []
    return scores, write_unfinished(Path(plan.config.output), chunks, plan.contents, ranks)


def _loaded(plan: ExportPlan, platform: Platform, ranks: Ranks) -> list[RewardModel]:
    chunks = load_for_scoring(
        plan.model,
        platform,
        model=ModelConfig(),
        parallel=plan.parallel,
        precision=_precision(plan),
        kernels=KernelConfig(),
        seed=0,
        ranks=ranks,
        verifies=plan.config.verify_checksums,
    )
    if plan.config.merge:
        for chunk in chunks:
            merge_adapters(chunk)
    check_fits(chunks, plan.contents.dtype)
    return chunks


def _precision(plan: ExportPlan) -> PrecisionConfig:
    return PrecisionConfig(bf16=plan.bf16)


def _scores(
    chunks: Sequence[RewardModel],
    samples: Sequence[Sample],
    plan: ExportPlan,
    platform: Platform,
    ranks: Ranks,
) -> list[list[float]]:
    """The outputs of each sample or step, on every process; each replica computes all of them.

    That of a language model is the mean log-probability of the sample's tokens but the first.
    """
    is_language_model = plan.model.spec.is_language_model
    examples = [Example(index, (_response(sample),)) for index, sample in enumerate(samples)]
    divisible_by = plan.parallel.tokens_divisible_by()
    multiple = micro_batches_multiple_of(chunks)
    groups = [examples, *([[]] * (multiple - 1))]
    batches = (
        pack_examples(
            group, divisible_by=divisible_by, share_prefixes=False, predicts_answers=is_language_model
        )
        .share(rank=ranks.cp_rank, size=ranks.cp_size)
        .to(platform.device)
        for group in groups
    )
    scored = forward_scores(chunks, batches, num_micro_batches=len(groups))
    num_outputs = plan.model.spec.num_outputs
    values = list(itertools.chain.from_iterable(one.view(-1, num_outputs).tolist() for one, _ in scored))
    gathered: list[list[list[float]]] = [[]] * ranks.world_size
    torch.distributed.all_gather_object(gathered, values if ranks.reports_scores else [])
    found = next(part for part in gathered if part)[: sum(example.num_scores for example in examples)]
    if not is_language_model:
        return found
    pairs = zip(found, samples, strict=True)
    return [[total / (len(sample.input_ids) - 1)] for (total,), sample in pairs]


def _response(sample: Sample) -> Response:
    ids = np.array(sample.input_ids, dtype=np.int32)
    return Response(ids, num_prompt_tokens=0, step_ends=sample.step_ends)
