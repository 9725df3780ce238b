"""The choice of the engine."""

from collections.abc import Sequence
from pathlib import Path

from modellink_rm.config.generate import PolicyConfig, SamplingConfig
from modellink_rm.generation.engine import Engine


def load_engine(
    policy: PolicyConfig, sampling: SamplingConfig, *, end_ids: Sequence[int], trust_remote_code: bool
) -> Engine:
    """The engine that --engine names, with the model of --load.

    Raises:
        UserError: it is not installed, cannot open the directory, or that holds no language-model head.
    """
    directory = Path(policy.load)
    if policy.engine == "vllm":
        from modellink_rm.generation.vllm_engine import VllmEngine

        return VllmEngine(
            directory,
            sampling,
            end_ids=end_ids,
            num_gpus=policy.vllm_gpus,
            trust_remote_code=trust_remote_code,
        )
    from modellink_rm.generation.transformers_engine import TransformersEngine

    return TransformersEngine(
        directory,
        sampling,
        end_ids=end_ids,
        batch_size=policy.batch_size,
        trust_remote_code=trust_remote_code,
    )
