"""The groups of flags of a training run, together."""

from dataclasses import dataclass

from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.data import DataConfig
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The groups of flags of a run."""

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    kernels: KernelConfig
    optim: OptimConfig
    training: TrainingConfig
    checkpoint: CheckpointConfig
    reporting: ReportingConfig
