"""Flags of scoring."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag
from modellink_rm.config.limits import Limits


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Limits):
    """Records in, scores out."""

    input: tuple[str, ...] = flag(
        help="records to score, in any format that preprocess_data.py reads: files, directories, globs, or "
        "owner/name of the Hugging Face hub",
        metavar="PATH",
    )
    output: str | None = flag(
        None,
        help="file for one row per input: a table if its name ends in .parquet, else JSON lines; by default "
        "standard output",
    )
    keep: str | None = flag(
        None,
        help="fields of the records that the rows have too, with commas between their names, or none; by "
        "default all",
        metavar="FIELDS",
    )
    resume: bool = flag(False, help="continue a run that was stopped, with the same flags")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.output is None:
            raise UserError("--resume needs --output: what went to standard output is not kept")


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Scoring.

    A checkpoint of this tool knows the template, the tokenizer, the handler, the sequence length and the
    precision that it was trained with; they are the defaults.
    """

    load: str = flag(help="checkpoint of this tool, or a Hugging Face directory with a reward head")
    load_adapter: str | None = flag(
        None,
        metavar="DIR",
        help="adapters of the model of --load: PEFT's directory or a checkpoint of this tool",
    )
    handler_name: str | None = flag(
        None,
        help="handler of the records, as in preprocess_data.py; by default PromptResponseHandler for a "
        "response or responses, else the one that --load was trained with",
    )
    map_keys: str | None = flag(None, help="JSON object of the handler's field names")
    prompt_type: str | None = flag(
        None,
        help="template; by default the one that --load was trained with, or hf, the one that comes with a "
        "Hugging Face directory's tokenizer",
    )
    seq_length: int | None = flag(
        None, minimum=2, level="rare", help="longest prompt + response, in tokens; longer ones are truncated"
    )
    truncation: str | None = flag(
        None,
        level="rare",
        help="how longer inputs are truncated, as in training",
        choices=("right", "keep-ends"),
    )
    micro_batch_size: int | None = flag(
        None,
        minimum=1,
        help="pairs in one forward pass, if every response with its prompt has --seq-length tokens; by "
        "default --max-tokens-per-micro-batch says how much it computes",
    )
    max_tokens_per_micro_batch: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="tokens of one forward pass, a shared prompt counted once; by default 2,048 on a CPU and "
        "32,768 on a GPU. A longer record gets its own",
    )
    step_aggregate: str | None = flag(
        None,
        help="how the probabilities of a response's steps make its score, with a model of --stage prm: the "
        "lowest (min, the default), the product of all, or that of the last step",
        choices=("min", "product", "last"),
    )
    placeholder_token: str | None = flag(
        None,
        level="rare",
        help="text after each step, as in preprocess_data.py; by default the one that --load was trained "
        "with, or \\n, a newline, for a Hugging Face directory",
        metavar="TEXT",
    )
    raw: bool = flag(False, help="the model's own scores, although --load holds a normalization")
    normalize: bool = flag(
        False,
        help="refuse a --load without a normalization; without this flag and --raw scores are normalized if "
        "--load holds one",
    )
    attribute_weights: str | None = flag(
        None,
        metavar="WEIGHTS",
        help="of a model of several attributes, the score as a weighted sum of them: "
        "helpfulness=0.65,verbosity=-0.4; by default the first attribute alone",
    )
    load_checkpoint_loosely: bool = flag(
        False, help="accept a base model without a reward head (its scores are then random)"
    )
    bf16: bool = flag(
        False,
        level="rare",
        help="weights and activations in bfloat16; by default as a checkpoint was trained, of which one of "
        "--bf16 is never scored in float32; a Hugging Face directory is scored in float32 without it",
    )
    seed: int = flag(1234, level="rare", help="seed of a head that is not loaded, of intervals")
    verify_checksums: bool = flag(
        True, level="rare", help="take the weights as they are read, without comparing them with checksums"
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.raw and self.normalize:
            raise UserError("--raw and --normalize exclude each other: give one of them")
        if self.micro_batch_size is not None and self.max_tokens_per_micro_batch is not None:
            raise UserError(
                "--micro-batch-size and --max-tokens-per-micro-batch both say how much one forward pass "
                "computes: give one of them"
            )
        if self.map_keys is not None and self.handler_name is None:
            raise UserError("--map-keys needs --handler-name: it names that handler's fields")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must lie between 0 and {2**31 - 1}, got {self.seed}")

    @property
    def aggregate(self) -> str:
        """How the probabilities of steps make a score: a name in AGGREGATES."""
        return self.step_aggregate or "min"

    def tokens_of_a_pass(self, seq_length: int, *, default: int) -> int:
        """The most tokens of one forward pass; `default` where no flag says it."""
        if self.micro_batch_size is not None:
            return 2 * self.micro_batch_size * seq_length
        return self.max_tokens_per_micro_batch or default
