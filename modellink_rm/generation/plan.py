"""The plan of generation: everything that can be checked before weights are read."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.base.log import warn_once
from modellink_rm.checkpoint.files import CHECKSUMS_FILE, check_contents, check_sizes, read_files
from modellink_rm.config.generate import PolicyConfig, SamplingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.generation.ends import AnswerEnds, answer_ends
from modellink_rm.generation.prompts import PromptReader, PromptTokenizer
from modellink_rm.templates.choice import find_template
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.word_cache import with_word_cache

_WITHOUT_LANGUAGE_MODEL_HEAD = ("SequenceClassification", "TokenClassification", "Reward")
# Names of config.json: of most families, of THUDM, of GPT-2 and of MPT.
_LONGEST = ("max_position_embeddings", "seq_length", "n_positions", "max_seq_len")
_NUM_IDS = ("padded_vocab_size", "vocab_size")  # of THUDM, of the others
# Of config.json: a name with a slash is a kernel of the hub, which transformers would download and run.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")


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
    config = _model_config(directory, trust_remote_code=tokenizer_flags.trust_remote_code)
    _check_contents(directory)
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
    longest = _size_of(config, _LONGEST)
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
        num_ids=_size_of(config, _NUM_IDS),
    )
    return GenerationPlan(prompts=prompts, ends=ends)


def _size_of(config: dict[str, Any], names: Sequence[str]) -> int | None:
    """The first of these fields that is a size; of a model of images and text that of its part for text."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for value in map(holder.get, names):
            if type(value) is int and value > 0:
                return value
    return None


def _check_contents(directory: Path) -> None:
    """What this package exported is what it wrote: transformers does not compare it.

    Raises:
        UserError: a file of weights has changed.
    """
    checksums = directory / CHECKSUMS_FILE
    if checksums.is_file():
        entries = read_files(checksums)
        check_sizes(directory, entries)
        check_contents(directory, entries)


def _model_config(directory: Path, *, trust_remote_code: bool) -> dict[str, Any]:
    """config.json of a language model.

    Raises:
        UserError: the directory is none of transformers, or of a model without a language-model head; or
            it names code to download.
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
    for field in () if trust_remote_code else _KERNELS:
        if "/" in str(config.get(field)):
            raise UserError(
                f"{path}: {field} {config[field]!r} is code of the hub, which runs only with "
                "--trust-remote-code"
            )
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        if any(kind in str(name) for kind in _WITHOUT_LANGUAGE_MODEL_HEAD):
            raise UserError(
                f"--load {directory} is a {name}, which has no language-model head to generate with; give "
                "the policy's directory"
            )
    return config
