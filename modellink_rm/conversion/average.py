"""Checkpoints of one base model as one checkpoint with the mean of their weights.

Averaging the weights of reward models that were fine-tuned from one model makes a better and more robust one
than each (Rame et al. 2024, "WARM", arXiv 2401.12187).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.base.platform import detect_platform
from modellink_rm.checkpoint.average import load_average
from modellink_rm.checkpoint.base_model import base_model_files
from modellink_rm.checkpoint.contract import CONTRACT_NAME, TOKENIZER_FOLDER, InferenceContract
from modellink_rm.checkpoint.layout import CheckpointInfo, RunInfo
from modellink_rm.checkpoint.load import build_and_load_model, check_finite
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.save import CheckpointSaver
from modellink_rm.checkpoint.source import ModelSource, open_source
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.conversion.output import check_is_new, making
from modellink_rm.model.config import Kernels
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import process_groups, world_size_from_environment


@dataclass(frozen=True, kw_only=True)
class AveragePlan:
    """Checkpoints that can be averaged.

    Attributes:
        model: that of the first one.
        bf16: whether the weights of all are bfloat16.
        info_files: contract, tokenizer and base model, by name relative to the checkpoint.
    """

    config: AverageConfig
    parallel: ParallelConfig
    checkpoints: tuple[CheckpointInfo, ...]
    model: ModelPlan
    bf16: bool
    info_files: dict[str, bytes]


def plan_average(config: AverageConfig, parallel: ParallelConfig) -> AveragePlan:
    """Check that the checkpoints belong together, reading no weights.

    Raises:
        UserError: one is no checkpoint, is given twice, or differs from the first one in shape, precision,
            base model, tokenizer or template; or --output cannot be made.
    """
    parallel.check_world_size(world_size_from_environment())
    check_is_new(config.output)
    sources = [open_source(load) for load in config.load]
    checkpoints = [_checkpoint_of(source) for source in sources]
    _check_each_once(checkpoints)
    for source in sources[1:]:
        _check_belongs_to(source, sources[0])
    _warn_of_other_origins(checkpoints)
    model = plan_model(sources[0], ModelConfig(), parallel, loosely=False)
    contract = _contract_of(sources)
    folder = checkpoints[0].path / TOKENIZER_FOLDER
    tokenizer = {f"{TOKENIZER_FOLDER}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
    return AveragePlan(
        config=config,
        parallel=parallel,
        checkpoints=tuple(checkpoints),
        model=model,
        bf16=_is_bf16(checkpoints[0]),
        info_files={
            CONTRACT_NAME: contract.to_json(),
            **tokenizer,
            **base_model_files(sources[0]),
        },
    )


def average_checkpoints(plan: AveragePlan) -> Path:
    """Write the checkpoint; the directory iter_0000000."""
    config = plan.config
    platform = detect_platform(plan.parallel.distributed_backend)
    precision = PrecisionConfig(bf16=plan.bf16)
    with (
        making(config.output, is_checkpoint=True),
        process_groups(plan.parallel, platform, seed=0) as ranks,
        ending_together(),
    ):
        chunks = build_and_load_model(
            plan.model,
            model=ModelConfig(),
            parallel=plan.parallel,
            precision=precision,
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),  # nothing is computed
            seed=0,
            ranks=ranks,
            loads=False,
        )
        load_average(chunks, plan.checkpoints, config.shares, ranks, verifies=config.verify_checksums)
        check_finite(chunks, "the average")
        names = [str(checkpoint.path) for checkpoint in plan.checkpoints]
        run = RunInfo(
            iteration=0,
            spec=plan.model.spec,
            parallel_sizes=ranks.sizes,
            config={
                "precision": dataclasses.asdict(precision),
                "checkpoint": {"load": plan.checkpoints[0].run.setting("checkpoint", "load")},
                "average": {"load": names, "shares": list(config.shares)},
            },
            consumed_samples=0,
        )
        for name, share in zip(names, config.shares, strict=True):
            info(f"{share:.4g} of {name}")
        saver = CheckpointSaver(Path(config.output), ranks)
        return saver.save_weights(chunks=chunks, run=run, info_files=plan.info_files)


def _checkpoint_of(source: ModelSource) -> CheckpointInfo:
    if source.checkpoint is None:
        raise UserError(
            f"{source.name} is no checkpoint of this tool; `python -m modellink_rm import` makes one of it"
        )
    if source.base is not None:
        raise UserError(
            f"{source.name} holds adapters, and a mean of A and one of B are no mean of their products; "
            "`python -m modellink_rm export --merge` and then `import` make a checkpoint of the whole model"
        )
    return source.checkpoint


def _check_each_once(checkpoints: Sequence[CheckpointInfo]) -> None:
    paths = [checkpoint.path.resolve() for checkpoint in checkpoints]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise UserError(f"{checkpoints[number].path} is given twice; --weights lets one weigh more")


def _check_belongs_to(source: ModelSource, first: ModelSource) -> None:
    """Check that the mean of two checkpoints is a model, and one that is used as both are.

    Raises:
        UserError: they differ in shape, precision, base model, tokenizer or template.
    """
    own, other = _checkpoint_of(source), _checkpoint_of(first)
    both = f"{own.path} and {other.path} cannot be averaged"
    if own.run.spec != other.run.spec:
        raise UserError(f"{both}: their models have other shapes")
    if _is_bf16(own) != _is_bf16(other):
        raise UserError(f"{both}: one has weights in bfloat16, the other in float32")
    files, others = base_model_files(source), base_model_files(first)
    different = sorted(name for name in files.keys() | others.keys() if files.get(name) != others.get(name))
    if different:
        raise UserError(
            f"{both}: they come of other base models, as {different[0]} says; only what was trained from the "
            "same weights has a mean"
        )
    assert source.contract is not None
    assert first.contract is not None
    for name, what in (
        ("tokenizer_fingerprint", "tokenizer"),
        ("template_fingerprint", "template"),
        ("attributes", "list of attributes"),
        ("placeholder_token", "token after each step"),
    ):
        if getattr(source.contract, name) != getattr(first.contract, name):
            raise UserError(f"{both}: they have another {what}")


def _warn_of_other_origins(checkpoints: Sequence[CheckpointInfo]) -> None:
    """Say where runs started from directories of other names: their weights may have started as others."""
    names = [checkpoint.run.setting("checkpoint", "load") for checkpoint in checkpoints]
    origins = sorted({str(name) for name in names if name is not None})
    if len(origins) > 1:
        warn_once(
            f"the runs started from {' and '.join(origins)}: only what was trained from the same weights has "
            "a mean"
        )


def _contract_of(sources: Sequence[ModelSource]) -> InferenceContract:
    """The contract of the first checkpoint, without what was measured of its scores."""
    contracts = [source.contract for source in sources]
    first = contracts[0]
    assert first is not None
    for source, contract in zip(sources, contracts, strict=True):
        assert contract is not None
        if contract.normalization is not None:
            warn_once(
                f"the normalization of {source.name} is left out: the scores of an average have another "
                "mean; evaluate --write-normalization measures it"
            )
        for name in ("seq_length", "truncation"):
            if getattr(contract, name) != getattr(first, name):
                warn_once(
                    f"{source.name} was trained with {name} {getattr(contract, name)}; the average keeps "
                    f"{getattr(first, name)}"
                )
    return dataclasses.replace(first, normalization=None)


def _is_bf16(checkpoint: CheckpointInfo) -> bool:
    return checkpoint.run.setting("precision", "bf16") is True
