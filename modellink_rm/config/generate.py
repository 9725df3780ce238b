"""Flags of `python -m modellink_rm generate`."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag
from modellink_rm.config.limits import Limits

LOWEST_TEMPERATURE = 1e-6
MOST_ANSWERS = 65536  # those of a prompt are in memory together


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(Limits):
    """Prompts in, answers out."""

    input: tuple[str, ...] = flag(
        help="records whose prompts are answered, in any format that preprocess_data.py reads: files, "
        "directories, globs, or owner/name of the Hugging Face hub; answers that they have are left out",
        metavar="PATH",
    )
    output: str | None = flag(
        None,
        help="file for one row per prompt, which score reads: a table if its name ends in .parquet, else "
        "JSON lines; by default standard output",
    )
    keep: str | None = flag(
        None,
        help="further fields of the records that the rows have too, with commas between their names, or "
        "none; by default all but those of prompts and answers",
        metavar="FIELDS",
    )
    resume: bool = flag(False, help="continue a run that was stopped, with the same flags")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.output is None:
            raise UserError("--resume needs --output: what went to standard output is not kept")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Sampling.

    What generation_config.json says of sampling is not used; its end tokens are.
    """

    num_answers: int = flag(1, minimum=1, help="answers to each prompt")
    max_new_tokens: int = flag(512, minimum=1, help="longest answer, in tokens; a longer one is cut there")
    temperature: float = flag(
        1.0, minimum=0, help="divides the logits; 0 takes the likeliest token at every position"
    )
    top_p: float = flag(
        1.0, above=0, help="sample among the likeliest tokens that have this probability together"
    )
    top_k: int = flag(0, minimum=0, help="sample among so many likeliest tokens; 0 for all")
    seed: int = flag(
        1234, minimum=0, help="of the sampling; each answer has its own stream of random numbers"
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.num_answers > MOST_ANSWERS:
            raise UserError(f"--num-answers must be at most {MOST_ANSWERS}, got {self.num_answers}")
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise UserError(
                f"--temperature must be 0 or at least {LOWEST_TEMPERATURE:g}, got {self.temperature:g}: "
                "logits divided by less are no finite numbers"
            )
        if self.top_p > 1:
            raise UserError(f"--top-p must lie between 0 and 1, got {self.top_p}")
        if self.is_greedy and self.num_answers > 1:
            raise UserError(
                f"--num-answers {self.num_answers} with --temperature 0 would be equal answers: give a "
                "--temperature above 0"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the likeliest one."""
        return self.temperature == 0


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The model that answers."""

    load: str = flag(
        help="Hugging Face directory of a model with a language-model head, an exported one included; or a "
        "checkpoint of --stage dpo, with --export-to",
        metavar="DIR",
    )
    export_to: str | None = flag(
        None,
        help="directory to make of a checkpoint first, as export does; with --resume it may be there",
        metavar="DIR",
    )
    engine: str = flag(
        "transformers",
        choices=("transformers", "vllm"),
        help="what generates: transformers, everywhere, or vLLM where it is installed",
    )
    handler_name: str | None = flag(
        None,
        help="handler of the records, as in preprocess_data.py; by default PromptResponseHandler for prompts",
    )
    map_keys: str | None = flag(None, help="JSON object of the handler's field names")
    prompt_type: str | None = flag(
        None, help="template; by default hf, the chat template that comes with the tokenizer of --load"
    )
    batch_size: int = flag(32, minimum=1, help="answers that transformers generates at a time")
    vllm_gpus: int = flag(
        1, minimum=1, level="rare", help="GPUs over which vLLM divides the model (tensor parallel)"
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.map_keys is not None and self.handler_name is None:
            raise UserError("--map-keys needs --handler-name: it names that handler's fields")
        if self.vllm_gpus > 1 and self.engine != "vllm":
            raise UserError(f"--vllm-gpus {self.vllm_gpus} needs --engine vllm: {self.engine} takes one GPU")
