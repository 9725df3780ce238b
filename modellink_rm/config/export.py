"""Flags of `python -m modellink_rm export`, beside those of parallelism."""

import re
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?B)?", re.IGNORECASE)
_LARGEST_FILE = 2**62
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export."""

    load: str = flag(help="checkpoint of this tool", metavar="CHECKPOINT")
    output: str = flag(help="directory to make", metavar="DIR")
    load_adapter: str | None = flag(
        None, metavar="DIR", help="checkpoint of adapters, where --load is the model that they update"
    )
    merge: bool = flag(
        False, help="of a checkpoint of adapters, write the updated model; by default the adapters alone"
    )
    form: str | None = flag(
        None,
        choices=("transformers", "llamafactory", "openrlhf"),
        help="who reads it: transformers (TRL, vLLM and SGLang too), LLaMA-Factory, or OpenRLHF; by default "
        "transformers if it has a class for the model, else LLaMA-Factory's form with the publisher's names",
    )
    dtype: str | None = flag(
        None, choices=("float32", "bfloat16", "float16"), help="of the weights; by default as trained"
    )
    max_shard_size: str = flag("5GB", help="largest file of weights", metavar="SIZE")
    merge_normalization: bool = flag(
        False,
        help="write a head that says normalized scores, for a checkpoint with a normalization; without a "
        "bias it is their scale alone, and the card says by how much they are shifted",
    )
    check_scores: bool = flag(
        True,
        help="do not score samples with transformers at the end, which takes memory for "
        "the whole model in one process",
    )
    verify_checksums: bool = flag(
        True, level="rare", help="take the checkpoint as it is read, without comparing it with its checksums"
    )

    def __post_init__(self) -> None:
        if self.max_shard_bytes < 1:
            raise UserError(f"--max-shard-size must be at least 1, got {self.max_shard_size}")

    @property
    def max_shard_bytes(self) -> int:
        """--max-shard-size in bytes; units are decimal, as in transformers.

        Raises:
            UserError: it is no size.
        """
        found = _SIZE.fullmatch(self.max_shard_size.strip())
        if found is None:
            raise UserError(
                f"--max-shard-size must be a size such as 5GB or 500MB, got {self.max_shard_size!r}"
            )
        size = float(found[1]) * _UNITS[(found[2] or "B").upper()]
        return int(min(size, _LARGEST_FILE))  # of 400 digits it is infinite


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import."""

    load: str = flag(
        help="Hugging Face directory of a base or reward model, or a checkpoint of ModelLink 1.0 or "
        "Megatron-LM (mp_rank_ directories)",
        metavar="DIR",
    )
    output: str = flag(
        help="directory to make, as of --save: the checkpoint is its iter_0000000", metavar="DIR"
    )
    base_model: str | None = flag(
        None,
        help="of a checkpoint of ModelLink 1.0 or Megatron-LM: the Hugging Face directory of its base model, "
        "whose config.json and tokenizer it has",
        metavar="DIR",
    )
    prompt_type: str | None = flag(
        None,
        help="template that the model was trained with, which the checkpoint then keeps; hf for the "
        "tokenizer's own",
    )
    seed: int = flag(1234, level="rare", help="seed of a head that is not loaded")
    load_checkpoint_loosely: bool = flag(
        False, help="accept a base model without a reward head, and ignore its language-model head"
    )
    verify_checksums: bool = flag(
        True, level="rare", help="take the weights as they are read, without comparing them with checksums"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must lie between 0 and {2**31 - 1}, got {self.seed}")
