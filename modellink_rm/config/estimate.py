"""Flags of `python -m modellink_rm estimate`, beside those of the model."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag

_SLOWEST, _FASTEST = 1e-6, 1e6  # TFLOP/s of any device: products of one number a microsecond, and no GPU yet
_LONGEST = 2**24  # tokens; no model reads so many, and the estimate lays a pair of that length out


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """What to estimate.

    Sizes that are given are kept, the others are chosen.
    """

    load: str | None = flag(
        None,
        help="the model that training starts from: a Hugging Face directory, whose config.json is enough, or "
        "a checkpoint; without it the model's flags say its shape",
        metavar="DIR",
    )
    gpus: str = flag(
        help="number and kind: 8x80G, 8xH100, 4x8xH100 for four nodes, or 2xcpu", metavar="NxKIND"
    )
    seq_length: int = flag(1024, minimum=2, help="longest prompt + response, in tokens")
    global_batch_size: int = flag(128, minimum=1, help="pairs of one optimizer step")
    mean_length: int | None = flag(
        None,
        minimum=2,
        help="tokens of prompt + response on average, for the time of a step; by default --seq-length",
    )
    tensor_model_parallel_size: int | None = flag(
        None, minimum=1, help="processes that share each layer's matrices"
    )
    pipeline_model_parallel_size: int | None = flag(
        None, minimum=1, help="stages that the layers are divided into"
    )
    context_parallel_size: int | None = flag(
        None, minimum=1, help="processes that share each sequence by tokens"
    )
    expert_model_parallel_size: int | None = flag(
        None, minimum=1, help="processes that a layer's experts are divided over"
    )
    max_tokens_per_micro_batch: int | None = flag(None, minimum=1, help="tokens of one forward pass")
    recompute_granularity: str | None = flag(
        None, help="what is recomputed in the backward pass", choices=("none", "selective", "full")
    )
    freeze_base: bool = flag(False, help="train the reward head alone")
    train_last_n_layers: int | None = flag(
        None, minimum=1, help="train only the last N layers, the final norm and the reward head"
    )
    dtype: str | None = flag(
        None, help="of weights and activations; by default bf16, on a CPU fp32", choices=("bf16", "fp32")
    )
    peak_tflops: float | None = flag(
        None, above=0, help="TFLOP/s of one GPU's products, in place of what its maker gives"
    )
    output: str | None = flag(None, help="JSON file for the same numbers")

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.seq_length > _LONGEST:
            raise UserError(f"--seq-length must be at most {_LONGEST}, got {self.seq_length}")
        if self.freeze_base and self.train_last_n_layers is not None:
            raise UserError(
                "--freeze-base and --train-last-n-layers exclude each other: the first trains no layer"
            )
        if self.peak_tflops is not None and not _SLOWEST <= self.peak_tflops <= _FASTEST:
            raise UserError(
                f"--peak-tflops must lie between {_SLOWEST:g} and {_FASTEST:g}, got {self.peak_tflops:g}"
            )
        if self.mean_length is not None and self.mean_length > self.seq_length:
            raise UserError(
                f"--mean-length {self.mean_length} is above --seq-length {self.seq_length}, the longest"
            )

    @property
    def num_trained_layers(self) -> int | None:
        """The last layers that are trained, 0 for the head alone; None where nothing is frozen."""
        return 0 if self.freeze_base else self.train_last_n_layers
