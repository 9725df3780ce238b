"""Flags of ModelLink's and Megatron-LM's reward scripts that have no effect here."""

from modellink_rm.base.flags import IgnoredFlag

_ALWAYS = "it is always so here"
_NO_PADDING = "nothing is padded: micro-batches are flat packed sequences"
_KERNELS = "the kernels are chosen by what the platform has"
_TP_OVERLAP = "the overlap of tensor-parallel exchanges needs Transformer Engine's or Ascend's linears"

IGNORED_TRAINER_FLAGS = {
    "--use-mcore-models": IgnoredFlag(False, _ALWAYS),
    "--untie-embeddings-and-output-weights": IgnoredFlag(
        False, "a reward model has no output embedding, and a language model ties its own as config.json says"
    ),
    "--variable-seq-lengths": IgnoredFlag(False, _NO_PADDING),
    "--pad-to-multiple-of": IgnoredFlag(True, _NO_PADDING),
    "--padded-samples": IgnoredFlag(False, "global batches run on into the next epoch"),
    "--context-parallel-algo": IgnoredFlag(True, "keys and values of all ranks are gathered"),
    "--use-flash-attn": IgnoredFlag(False, _KERNELS),
    "--use-fused-rmsnorm": IgnoredFlag(False, _KERNELS),
    "--use-fused-swiglu": IgnoredFlag(False, _KERNELS),
    "--use-fused-rotary-pos-emb": IgnoredFlag(False, _KERNELS),
    "--no-masked-softmax-fusion": IgnoredFlag(False, _KERNELS),
    "--attention-softmax-in-fp32": IgnoredFlag(False, _ALWAYS),
    "--initial-loss-scale": IgnoredFlag(True, "float32 and bfloat16 need no loss scale"),
    "--lora-fusion": IgnoredFlag(False, _KERNELS),
    "--lora-ckpt-filter": IgnoredFlag(False, "checkpoints of adapters never hold the model itself"),
    "--lora-register-forward-hook": IgnoredFlag(True, "layers above a frozen embedding are always trained"),
    "--use-pytorch-profiler": IgnoredFlag(False, "--profile is torch's profiler always"),
    **{
        name: IgnoredFlag(False, _TP_OVERLAP)
        for name in (
            "--tp-comm-overlap",
            "--tp-comm-overlap-ag",
            "--tp-comm-overlap-rs",
            "--tp-comm-bulk-dgrad",
            "--tp-comm-bulk-wgrad",
            "--disable-tp-comm-overlap-ag",
            "--disable-tp-comm-overlap-rs",
            "--disable-tp-comm-bulk-dgrad",
            "--disable-tp-comm-bulk-wgrad",
            "--disable-tp-comm-split-ag",
            "--disable-tp-comm-split-rs",
            "--tp-comm-overlap-rs-dgrad",
            "--use-ascend-mc2",
            "--use-ascend-coc",
            "--coc-fused-kernel",
        )
    },
    **{
        name: IgnoredFlag(True, _TP_OVERLAP)
        for name in (
            "--tp-comm-overlap-cfg",
            "--tp-comm-bootstrap-backend",
            "--coc-mode",
            "--coc-parallel-num",
        )
    },
}
