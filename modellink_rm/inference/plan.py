"""The plan of scoring: everything that can be checked before any process group starts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.contract import InferenceContract
from modellink_rm.checkpoint.model_plan import ModelPlan, plan_model
from modellink_rm.checkpoint.source import ModelSource, open_source, tokenizer_of
from modellink_rm.config.preprocess import DEFAULT_PLACEHOLDER, placeholder_text
from modellink_rm.config.score import ScorerConfig
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.inference.attributes import Attributes, weighted_attributes
from modellink_rm.inference.reader import RecordReader
from modellink_rm.inference.record_tokenizer import RecordTokenizer
from modellink_rm.metrics.normalization import Normalization
from modellink_rm.model.fits import shares_prompts
from modellink_rm.parallel.groups import world_size_from_environment
from modellink_rm.templates.choice import check_truncation, find_template, kept_template
from modellink_rm.templates.steps import placeholder_ids
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer
from modellink_rm.tokenizers.word_cache import with_word_cache


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """Validated settings for scoring: the model and its inference contract.

    Attributes:
        inputs: turns records into examples.
        share_prefixes: compute the prompt of several responses once.
        normalization: of the scores; None for the model's own.
        attributes: what the model's outputs are, and how the score is made of them.
    """

    options: ScorerOptions
    model: ModelPlan
    inputs: RecordTokenizer
    share_prefixes: bool
    bf16: bool
    normalization: Normalization | None = None
    attributes: Attributes = field(default_factory=Attributes)


def plan_scoring(options: ScorerOptions) -> ScoringPlan:
    """Combine the flags with the checkpoint's contract.

    Raises:
        UserError: they contradict each other, or a setting is in neither.
    """
    return plans_of_models([options])[0]


def plans_of_models(options: Sequence[ScorerOptions]) -> list[ScoringPlan]:
    """`plan_scoring` of several models that get the same flags.

    Raises:
        UserError: as by `plan_scoring`; or a flag is of use to none of them.
    """
    plans = [_plan(one) for one in options]
    if not any(plan.model.spec.scores_steps for plan in plans):
        _check_no_flag_of_steps(options[0].scorer)
    return plans


def _plan(options: ScorerOptions) -> ScoringPlan:
    scorer = options.scorer
    options.parallel.check_world_size(world_size_from_environment())
    source = open_source(scorer.load, adapter=scorer.load_adapter)
    model = plan_model(source, options.model, options.parallel, loosely=scorer.load_checkpoint_loosely)
    model = dataclasses.replace(model, spec=model.spec.without_router_losses())
    contract = source.contract
    reader = RecordReader(
        scorer.handler_name,
        scorer.map_keys,
        trained_handler=contract.handler if contract is not None else None,
        trained_map_keys=contract.map_keys if contract is not None else None,
        scores_steps=model.spec.scores_steps,
    )
    tokenizer = load_tokenizer(tokenizer_of(options.tokenizer, source))
    template = _template(scorer, source, tokenizer)
    if contract is not None and contract.tokenizer_fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the tokenizer {tokenizer.name} is not the one that {scorer.load} was trained with; leave the "
            "tokenizer's flags out to use that one"
        )
    longest, kept = model.shape.max_position_embeddings, contract or source.exported_contract
    seq_length = scorer.seq_length or (kept.seq_length if kept is not None else longest)
    if seq_length > longest:
        raise UserError(f"--seq-length {seq_length} is above the model's --max-position-embeddings {longest}")
    truncation = scorer.truncation or (kept.truncation if kept is not None else None)
    truncation = truncation or ("keep-ends" if template.reward_token else "right")
    check_truncation(template, truncation)
    inputs = RecordTokenizer(
        reader=reader,
        template=template,
        tokenizer=with_word_cache(tokenizer),
        seq_length=seq_length,
        truncation=truncation,
        padding_id=_padding_id(source) if not model.spec.scores_steps else None,
        placeholder=_placeholder(scorer, kept, tokenizer) if model.spec.scores_steps else None,
        num_ids=model.shape.vocab_size,
    )
    return ScoringPlan(
        options=options,
        model=model,
        inputs=inputs,
        share_prefixes=shares_prompts(seq_length, model.shape),
        bf16=scorer.bf16 or _was_bf16(source),
        normalization=_normalization(scorer, kept),
        attributes=weighted_attributes(source.attributes, scorer.attribute_weights, load=scorer.load),
    )


def _check_no_flag_of_steps(scorer: ScorerConfig) -> None:
    given = {"--step-aggregate": scorer.step_aggregate, "--placeholder-token": scorer.placeholder_token}
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name} is for models of --stage prm, which score steps; {scorer.load} scores whole "
                "responses: leave it out"
            )


def _placeholder(scorer: ScorerConfig, contract: InferenceContract | None, tokenizer: Tokenizer) -> str:
    """The text after each step: the contract's, that of --placeholder-token, or a newline.

    Raises:
        UserError: the flag contradicts the contract, or the tokenizer has no token for it.
    """
    trained = contract.placeholder_token if contract is not None else None
    given = placeholder_text(scorer.placeholder_token) if scorer.placeholder_token is not None else None
    if trained is not None and given not in (None, trained):
        raise UserError(
            f"--placeholder-token {given!r} is not the one that {scorer.load} was trained with, {trained!r}"
        )
    placeholder = trained or given or DEFAULT_PLACEHOLDER
    placeholder_ids(placeholder, tokenizer)
    return placeholder


def _normalization(scorer: ScorerConfig, contract: InferenceContract | None) -> Normalization | None:
    """The contract's, unless --raw is given.

    Raises:
        UserError: --normalize is given and there is none.
    """
    found = contract.normalization if contract is not None else None
    if scorer.normalize and found is None:
        raise UserError(
            f"--normalize: {scorer.load} holds no normalization; `python -m modellink_rm evaluate "
            "--write-normalization` measures one and writes it into a checkpoint"
        )
    return None if scorer.raw else found


def _template(scorer: ScorerConfig, source: ModelSource, tokenizer: Tokenizer) -> Template:
    """The template of --prompt-type or of the contract, from the contract's definition if it has one.

    Without both it is the tokenizer's own chat template.

    Raises:
        UserError: no template is named, or another one than in the contract of a checkpoint.
    """
    contract, exported = source.contract, source.exported_contract
    reward_token = source.appended_token(tokenizer)
    if scorer.prompt_type is None and exported is not None and exported.prompt_type is not None:
        return kept_template(exported.prompt_type, exported.template_definition, where=source.name)
    name = scorer.prompt_type or (contract.prompt_type if contract is not None else None)
    if name is None and contract is not None:
        raise UserError(f"--prompt-type is needed: --load {scorer.load} does not say which template it reads")
    if contract is not None and name is not None and name == contract.prompt_type:
        template = kept_template(name, contract.template_definition, where=scorer.load)
    else:
        # A reward model of another trainer read its score after all that its chat template writes.
        template = find_template(name, tokenizer, whole=contract is None, reward_token=reward_token)
    if contract is not None and contract.template_fingerprint not in (None, template.fingerprint):
        raise UserError(
            f"--prompt-type {name} is not the template that {scorer.load} was trained with "
            f"({contract.prompt_type})"
        )
    return template


def _padding_id(source: ModelSource) -> int | None:
    """The pad_token_id of a directory of transformers' sequence classifiers; None for any other source."""
    weights = source.hugging_face
    if weights is None or weights.tensors.head != "score" or weights.tensors.head_name not in weights.names:
        return None
    found = weights.config.get("pad_token_id")
    return found if isinstance(found, int) else None


def _was_bf16(source: ModelSource) -> bool:
    return source.checkpoint is not None and source.checkpoint.run.setting("precision", "bf16") is True
