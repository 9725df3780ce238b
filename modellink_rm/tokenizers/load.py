"""Loading a tokenizer: which backend reads which files."""

from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.tokenizers.tokenizer import Tokenizer


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the flags name, read from local files.

    The tokenizers library reads tokenizer.json; without one, or with --tokenizer-not-use-fast,
    sentencepiece reads tokenizer.model, or the tokenizers library if it is GLM-4's; transformers reads
    anything else.

    Raises:
        UserError: no such path, no tokenizer in it, or one whose own code would have to run.
    """
    if config.tokenizer_name_or_path is None and config.tokenizer_model is None:
        raise UserError("a tokenizer is needed: give --tokenizer-name-or-path DIR or --tokenizer-model FILE")
    if config.tokenizer_type == "GPTSentencePieceTokenizer" or config.tokenizer_name_or_path is None:
        flag, given = "--tokenizer-model", config.tokenizer_model
    else:
        flag, given = "--tokenizer-name-or-path", config.tokenizer_name_or_path
    assert given is not None
    path = Path(given)
    if not path.exists():
        raise UserError(f"{flag} {given} does not exist; it must be on this machine: nothing is downloaded")
    if config.tokenizer_model not in (None, given):
        warn_once("--tokenizer-model is ignored: --tokenizer-name-or-path is given")
    tokenizer = _load_file(path) if path.is_file() else _load_directory(path, config)
    tokenizer.trusts_its_code = config.trust_remote_code
    return tokenizer


def _load_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        from modellink_rm.tokenizers.fast_tokenizer import load_fast_tokenizer

        return load_fast_tokenizer(path)
    from modellink_rm.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer

    return load_sentencepiece_tokenizer(path)


def _load_directory(directory: Path, config: TokenizerConfig) -> Tokenizer:
    tokenizer_json, tokenizer_model = directory / "tokenizer.json", directory / "tokenizer.model"
    if tokenizer_json.exists() and not (config.tokenizer_not_use_fast and tokenizer_model.exists()):
        if config.tokenizer_not_use_fast:
            warn_once(f"--tokenizer-not-use-fast is ignored: {directory} has no tokenizer.model")
        return _load_file(tokenizer_json)
    if tokenizer_model.exists():
        from modellink_rm.tokenizers.chatglm_tokenizer import is_chatglm_directory, load_chatglm_tokenizer
        from modellink_rm.tokenizers.glm4_tokenizer import is_glm4_directory, load_glm4_tokenizer
        from modellink_rm.tokenizers.sentencepiece_tokenizer import is_sentencepiece_model

        if is_chatglm_directory(directory):
            return load_chatglm_tokenizer(directory)
        if is_glm4_directory(directory):
            return load_glm4_tokenizer(directory)
        if is_sentencepiece_model(tokenizer_model):
            return _load_file(tokenizer_model)
        if not config.trust_remote_code:
            raise UserError(
                f"{tokenizer_model} is not a sentencepiece model: it is damaged, or of another kind, "
                "which is read from a tokenizer.json beside it, or by its own code with --trust-remote-code"
            )
    from modellink_rm.tokenizers.transformers_tokenizer import load_transformers_tokenizer

    return load_transformers_tokenizer(directory, trust_remote_code=config.trust_remote_code)
