"""A directory of another program as a checkpoint of weights, written by all processes of a torchrun."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.base.platform import detect_platform
from modellink_rm.checkpoint.base_model import base_model_files
from modellink_rm.checkpoint.contract import CONTRACT_NAME, contract_files, make_contract, read_contract
from modellink_rm.checkpoint.hf.directory import HuggingFaceWeights
from modellink_rm.checkpoint.layout import RunInfo
from modellink_rm.checkpoint.load import build_and_load_model
from modellink_rm.checkpoint.megatron.weights import MegatronWeights
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.save import CheckpointSaver
from modellink_rm.checkpoint.source import open_source, tokenizer_of
from modellink_rm.config.export import ImportConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.preprocess import DEFAULT_PLACEHOLDER
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversion.output import check_is_new, making
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.model.config import Kernels
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import process_groups, world_size_from_environment
from modellink_rm.templates.chat_tokenizer import NAME as CHAT_TEMPLATE
from modellink_rm.templates.choice import find_template, kept_template
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """A checkpoint that can be written.

    Attributes:
        bf16: whether the directory's weights, and so the checkpoint's, are bfloat16.
        info_files: contract, tokenizer and base model, by name relative to the checkpoint.
    """

    config: ImportConfig
    parallel: ParallelConfig
    model: ModelPlan
    bf16: bool
    info_files: dict[str, bytes]


def plan_import(
    config: ImportConfig, tokenizer_config: TokenizerConfig, parallel: ParallelConfig
) -> ImportPlan:
    """Check the directory against the model that its config.json describes, reading no weights.

    Raises:
        UserError: it is not a model of a supported family, lacks a tokenizer, or --output cannot be made.
    """
    parallel.check_world_size(world_size_from_environment())
    source = open_source(config.load, base_model=config.base_model)
    weights = source.hugging_face
    if weights is None:
        raise UserError(f"--load {config.load} is a checkpoint already; export writes a directory of it")
    check_is_new(config.output)
    model = plan_model(source, ModelConfig(), parallel, loosely=config.load_checkpoint_loosely)
    tokenizer_config = tokenizer_of(tokenizer_config, source)
    tokenizer = load_tokenizer(tokenizer_config)
    template = _template(config, weights, tokenizer, reward_token=source.appended_token(tokenizer))
    exported, longest = source.exported_contract, model.shape.max_position_embeddings
    truncation = exported.truncation if exported is not None else "right"
    contract = make_contract(
        template,
        tokenizer,
        not_use_fast=tokenizer_config.tokenizer_not_use_fast,
        seq_length=min(exported.seq_length, longest) if exported is not None else longest,
        truncation="keep-ends" if template is not None and template.reward_token else truncation,
        handler=None,
        map_keys=None,
        attributes=weights.attributes,
        placeholder_token=_exported_placeholder(weights) if model.spec.scores_steps else None,
    )
    normalization = _exported_normalization(weights)
    contract = dataclasses.replace(contract, normalization=normalization)
    for field in ("mean", "std"):
        if field in weights.config and normalization is None:
            warn_once(f"{weights.source}: {field} {weights.config[field]} is kept but not applied to scores")
    return ImportPlan(
        config=config,
        parallel=parallel,
        model=model,
        bf16=weights.is_bf16,
        info_files={**contract_files(contract, tokenizer), **base_model_files(source)},
    )


def _exported_normalization(weights: HuggingFaceWeights) -> Normalization | None:
    """How the scores of a directory that export wrote are normalized; None if they are not."""
    if not (weights.directory / CONTRACT_NAME).is_file():
        return None
    return read_contract(weights.directory).normalization


def _exported_placeholder(weights: HuggingFaceWeights) -> str:
    """The text after each step, of a directory that export wrote; a newline of others, as TRL has it."""
    found = None
    if (weights.directory / CONTRACT_NAME).is_file():
        found = read_contract(weights.directory).placeholder_token
    return found or DEFAULT_PLACEHOLDER


def _template(
    config: ImportConfig, weights: HuggingFaceWeights, tokenizer: Tokenizer, *, reward_token: str
) -> Template | None:
    """The template of --prompt-type, of an export of this package, or the tokenizer's own; None for none."""
    if config.prompt_type is not None:
        return find_template(config.prompt_type, tokenizer, reward_token=reward_token)
    if isinstance(weights, MegatronWeights) and weights.prompt_type is not None:
        info(f"the checkpoint names its run's --prompt-type {weights.prompt_type}")
        return find_template(weights.prompt_type, tokenizer)
    if (weights.directory / CONTRACT_NAME).is_file():
        contract = read_contract(weights.directory)
        if contract.prompt_type is not None:
            return kept_template(
                contract.prompt_type, contract.template_definition, where=str(weights.directory)
            )
    try:
        template = find_template(CHAT_TEMPLATE, tokenizer, whole=True, reward_token=reward_token)
    except UserError:
        info("the checkpoint names no template, which score then needs: --prompt-type of import gives it one")
        return None
    info("the checkpoint names the tokenizer's own chat template; --prompt-type gives it another")
    return template


def import_directory(plan: ImportPlan) -> Path:
    """Write the checkpoint; the directory iter_0000000.

    Raises:
        UserError: something is there meanwhile, or another run is making it.
        CheckpointNotWrittenError: on every process: it cannot be written.
    """
    root = Path(plan.config.output)
    platform = detect_platform(plan.parallel.distributed_backend)
    precision = PrecisionConfig(bf16=plan.bf16)
    with (
        making(plan.config.output, is_checkpoint=True),
        process_groups(plan.parallel, platform, seed=plan.config.seed) as ranks,
        ending_together(),
    ):
        chunks = build_and_load_model(
            plan.model,
            model=ModelConfig(),
            parallel=plan.parallel,
            precision=precision,
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),  # nothing is computed
            seed=plan.config.seed,
            ranks=ranks,
            verifies=plan.config.verify_checksums,
        )
        run = RunInfo(
            iteration=0,
            spec=plan.model.spec,
            parallel_sizes=ranks.sizes,
            config={
                "precision": dataclasses.asdict(precision),
                "checkpoint": {"load": plan.config.load},
            },
            consumed_samples=0,
        )
        saver = CheckpointSaver(root, ranks)
        return saver.save_weights(chunks=chunks, run=run, info_files=plan.info_files)
