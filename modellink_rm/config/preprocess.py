"""Flags of preprocess_data.py, beside those of the tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import IgnoredFlag, check_minimums, flag
from modellink_rm.base.registry import unknown_name_message
from modellink_rm.config.limits import Limits

# name for --drop -> how the report describes such a pair; a pair's findings are bits in this order
CHECKS = {
    "equal": "with equal responses",
    "empty": "with an empty answer",
    "long-prompt": "with a prompt over the limit",
    "long-answer": "with an answer over the limit",
    "special-tokens": "with special tokens spelled in its text",
    "duplicate": "equal to an earlier pair",
}


DEFAULT_PLACEHOLDER = "\n"  # TRL's step_separator


def placeholder_text(word: str) -> str:
    """The text that --placeholder-token means: a backslash with n stands for a newline, with t for a tab."""
    return word.replace("\\n", "\n").replace("\\t", "\t")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Limits):
    """Preference pairs in, indexed files out."""

    input: tuple[str, ...] = flag(
        help="files (.json, .jsonl, .txt, .csv, .parquet, .arrow, each also with .gz or .zst), directories, "
        "globs, or owner/name of the Hugging Face hub, read one after the other",
        metavar="PATH",
    )
    output_prefix: str = flag(
        help="where the files go: PREFIX_packed_..._document.bin and .idx, and PREFIX_manifest.json",
        metavar="PREFIX",
    )
    handler_name: str = flag(
        "",
        help="style of the records, such as AlpacaStylePairwiseHandler (any other word lists them all), or a "
        "class of your own: FILE.py:CLASS; required unless --dataset-dir gives it",
        metavar="NAME",
    )
    dataset_dir: str | None = flag(
        None,
        level="rare",
        help="directory of LLaMA-Factory's dataset_info.json; --input then names its entries",
        metavar="DIR",
    )
    prompt_type: str | None = flag(
        None,
        help="chat template, such as chatglm3, llama2 or qwen (any other word lists them all); by default "
        "hf, the one that comes with the tokenizer",
        metavar="NAME",
    )
    prompt_type_path: str | None = flag(
        None,
        level="rare",
        help="JSON or YAML file of templates, one of which --prompt-type names",
        metavar="FILE",
    )
    enable_thinking: str = flag(
        "none",
        level="rare",
        help="true: an answer without a thought gets an empty one; false: answers lose their thoughts and "
        "the prompt ends with an empty one; none: answers stay as they are",
        choices=("true", "false", "none"),
    )
    reward_token: str | None = flag(
        None,
        level="rare",
        help="token of the tokenizer to append to every response, at which the score is then read, such as "
        "InternLM2's <|reward|>",
        metavar="TOKEN",
    )
    map_keys: str | None = flag(
        None,
        help='names of the records\' fields, as a JSON object: {"prompt": "question", "query": ""}',
        metavar="JSON",
    )
    placeholder_token: str = flag(
        "\\n",
        level="rare",
        help="text after each step of a response in steps, at whose last token the step is scored; \\n is a "
        "newline",
        metavar="TEXT",
    )
    seq_length: int | None = flag(
        None,
        minimum=1,
        help="drop a pair when a side of it has this many tokens or more (default: keep all, uncut)",
    )
    max_prompt_length: int | None = flag(
        None, minimum=1, level="rare", help="longest prompt, in tokens, that the check long-prompt accepts"
    )
    max_answer_length: int | None = flag(
        None, minimum=1, level="rare", help="longest answer, in tokens, that the check long-answer accepts"
    )
    drop: tuple[str, ...] = flag(
        (),
        level="rare",
        help=f"checks whose pairs are dropped; all of them are always counted: {', '.join(CHECKS)}",
        metavar="CHECK",
    )
    rejects: str | None = flag(
        None, level="rare", help="write every refused record with its reason to this .jsonl", metavar="FILE"
    )
    resume: bool = flag(False, help="continue a killed run from the parts that it finished")
    num_shards: int = flag(
        1, minimum=1, level="rare", help="number of processes in a job array, each with its own --shard-index"
    )
    shard_index: int = flag(
        0, level="rare", help="number of this shard, from 0; when all are done: --merge-shards"
    )
    workers: int = flag(1, minimum=1, help="processes that tokenise; the files are the same for any number")
    log_interval: int = flag(
        100, minimum=1, level="rare", help="records between two updates of the progress report"
    )
    strict: bool = flag(False, help="stop at the first bad record, with exit code 2")

    def __post_init__(self) -> None:
        check_minimums(self)
        if (self.dataset_dir is None) != bool(self.handler_name):
            raise UserError(
                "--handler-name is required: it says how to read a record; "
                "the same command with --handler-name list prints all names"
                if self.dataset_dir is None
                else "--handler-name and --dataset-dir exclude each other: dataset_info.json has the handler"
            )
        if self.dataset_dir is not None and self.map_keys is not None:
            raise UserError(
                "--map-keys and --dataset-dir exclude each other: dataset_info.json has the fields"
            )
        if not Path(self.output_prefix).name or self.output_prefix.endswith(("/", "..")):
            raise UserError(f"--output-prefix {self.output_prefix!r} must end in a name, such as data/pairs")
        if not 0 <= self.shard_index < self.num_shards:
            raise UserError(
                f"--shard-index {self.shard_index} must be from 0 to --num-shards - 1 = {self.num_shards - 1}"
            )
        for check in self.drop:
            if check not in CHECKS:
                raise UserError(unknown_name_message("check of --drop", check, CHECKS))
        for check, limit in (
            ("long-prompt", self.max_prompt_length),
            ("long-answer", self.max_answer_length),
        ):
            if check in self.drop and limit is None:
                raise UserError(f"--drop {check} needs a limit: --max-{check[5:]}-length")


_ONE_SEQUENCE = "a pair is one document, its EOS comes from the template"
_NO_DATASETS = "files are read directly, nothing is downloaded or cached"
_NO_PADDING = "the vocabulary is padded when a model is built"

# Flags of ModelLink's preprocess_data.py that have no effect on pairs.
IGNORED_FLAGS = {
    "--append-eod": IgnoredFlag(False, _ONE_SEQUENCE),
    "--split-sentences": IgnoredFlag(False, _ONE_SEQUENCE),
    "--keep-newlines": IgnoredFlag(False, _ONE_SEQUENCE),
    "--pack": IgnoredFlag(False, "pairs are packed when a model is trained"),
    "--neat-pack": IgnoredFlag(False, "pairs are packed when a model is trained"),
    "--json-keys": IgnoredFlag(True, "a handler's fields are named by --map-keys"),
    "--dataset-impl": IgnoredFlag(True, "the files are always indexed and mapped into memory"),
    "--streaming": IgnoredFlag(False, "records are always read one after the other"),
    "--overwrite-cache": IgnoredFlag(False, _NO_DATASETS),
    "--cache-dir": IgnoredFlag(True, _NO_DATASETS),
    "--hf-datasets-params": IgnoredFlag(True, _NO_DATASETS),
    "--script-data-dir": IgnoredFlag(True, _NO_DATASETS),
    "--vocab-file": IgnoredFlag(True, "the tokenizer comes from --tokenizer-name-or-path"),
    "--merge-file": IgnoredFlag(True, "the tokenizer comes from --tokenizer-name-or-path"),
    "--make-vocab-size-divisible-by": IgnoredFlag(True, _NO_PADDING),
    "--pad-vocab-size-to": IgnoredFlag(True, _NO_PADDING),
    "--n-subs": IgnoredFlag(True, "the input is not divided into files; --workers shares the work"),
    "--seed": IgnoredFlag(True, "nothing here is random"),
}
