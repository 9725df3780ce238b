"""All groups of flags of a training run."""

from dataclasses import dataclass, field

from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.data import DataConfig
from modellink_rm.config.dpo import DpoConfig
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.config.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The groups of flags of a run, in the order of --help; all but `training` and `data` have defaults."""

    training: TrainingConfig
    data: DataConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    reporting: ReportingConfig = field(default_factory=ReportingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    kernels: KernelConfig = field(default_factory=KernelConfig)
