"""megatron-core's configuration of a model, with the settings of our own modules."""

from dataclasses import dataclass

from megatron.core.transformer.transformer_config import TransformerConfig


@dataclass(frozen=True)
class Kernels:
    """The kernels that a run uses.

    Attributes:
        attention: name in ATTENTION_KERNELS.
        compiles_elementwise: whether norm, rotation and gate are compiled.
        cpu_inference: whether the model is only read, in float32 on a CPU: products of a multiple of
            `ONEDNN_ROWS` rows with the weights of linear layers are oneDNN's, and norm, rotation and gate go
            over memory less often. All round otherwise than in training.
        mlp_rows: tokens that an MLP computes at a time, where it needs no gradients; None for all.
    """

    attention: str
    compiles_elementwise: bool
    cpu_inference: bool = False
    mlp_rows: int | None = None


@dataclass
class RewardModelConfig(TransformerConfig):
    """The engine's configuration, which is passed to every module, with settings of our own.

    Attributes:
        windows: see `ModelShape`; of every layer of the model.
        attention_softcap: see `ModelShape`.
        attention_sinks: see `ModelShape`.
        recomputes_norms: whether layers keep no outputs of their norms for the backward pass.
        recomputes_gates: the same of the gates of their MLPs and experts.
        quantizes_weights: whether linear layers hold their weights in 4 bits.
    """

    windows: tuple[int | None, ...] = ()
    attention_softcap: float | None = None
    attention_sinks: bool = False
    recomputes_norms: bool = False
    recomputes_gates: bool = False
    quantizes_weights: bool = False
    kernels: Kernels = Kernels(attention="sdpa", compiles_elementwise=False)
