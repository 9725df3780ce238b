"""The plan of generation: everything that can be checked before weights are read."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.base.log import warn_once
from modellink_rm.config.generate import PolicyConfig, SamplingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.generation.ends import AnswerEnds, answer_ends
from modellink_rm.generation.prompts import PromptReader, PromptTokenizer
from modellink_rm.templates.choice import find_template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.word_cache import with_word_cache

_WITHOUT_LANGUAGE_MODEL_HEAD = ("SequenceClassification", "TokenClassification", "Reward")
_LONGEST = ("max_position_embeddings", "seq_length")  # names of the field, of transformers and of THUDM


@dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """Validated settings for generation.

    Attributes:
        prompts: turns records into ids.
        ends: where an answer ends.
    """

    prompts: PromptTokenizer
    ends: AnswerEnds


def plan_generation(
    policy: PolicyConfig, sampling: SamplingConfig, tokenizer_flags: TokenizerConfig, reader: PromptReader
) -> GenerationPlan:
    """Combine the flags with the files of --load.

    Args:
        reader: of the records' prompts.

    Raises:
        UserError: --load is no language model, or they contradict each other.
    """
    directory = Path(policy.load)
    config = _model_config(directory)
    if tokenizer_flags.tokenizer_name_or_path is None and tokenizer_flags.tokenizer_model is None:
        tokenizer_flags = dataclasses.replace(tokenizer_flags, tokenizer_name_or_path=policy.load)
    tokenizer = load_tokenizer(tokenizer_flags)
    template = find_template(policy.prompt_type, tokenizer)
    ends = answer_ends(template, tokenizer, directory)
    if not ends.end_ids:
        warn_once(
            "neither the template nor --load says which token ends an answer: every one has --max-new-tokens "
            f"{sampling.max_new_tokens}"
        )
    longest = next((config[name] for name in _LONGEST if isinstance(config.get(name), int)), None)
    if longest is not None and sampling.max_new_tokens >= longest:
        raise UserError(
            f"--max-new-tokens {sampling.max_new_tokens} leaves no room for a prompt: the model has "
            f"{longest} positions"
        )
    prompts = PromptTokenizer(
        reader=reader,
        template=template,
        tokenizer=with_word_cache(tokenizer),
        max_prompt_tokens=None if longest is None else longest - sampling.max_new_tokens,
    )
    return GenerationPlan(prompts=prompts, ends=ends)


def _model_config(directory: Path) -> dict[str, Any]:
    """config.json of a language model.

    Raises:
        UserError: the directory is none of transformers, or of a model without a language-model head.
    """
    if not directory.is_dir():
        raise UserError(f"--load {directory}: there is no such directory")
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"--load {directory} is neither a Hugging Face directory (no config.json) nor a checkpoint of "
            "this tool"
        )
    config = read_json_object(path)
    for name in config.get("architectures") or ():
        if any(kind in str(name) for kind in _WITHOUT_LANGUAGE_MODEL_HEAD):
            raise UserError(
                f"--load {directory} is a {name}, which has no language-model head to generate with; give "
                "the policy's directory"
            )
    return config
