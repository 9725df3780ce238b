"""Flags that divide the model and the data over processes."""

from dataclasses import dataclass

from modellink_rm.errors import UserError
from modellink_rm.flags import flag


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallelism.

    The data-parallel size is what is left: processes / (tensor * pipeline).
    """

    tensor_model_parallel_size: int = flag(1, help="processes that share each layer's matrices")
    pipeline_model_parallel_size: int = flag(1, help="stages that the layers are divided into")
    sequence_parallel: bool = flag(
        False, help="divide norms and residuals over the tensor-parallel processes by tokens"
    )
    use_distributed_optimizer: bool = flag(
        False, help="divide the optimizer's state over the data-parallel processes"
    )
    overlap_grad_reduce: bool = flag(False, help="reduce gradients while the backward pass runs")
    overlap_param_gather: bool = flag(
        False, help="gather updated weights while the forward pass runs (distributed optimizer)"
    )
    distributed_backend: str | None = flag(
        None, help="nccl on GPUs, gloo on CPUs; by default what fits", choices=("nccl", "gloo")
    )
    distributed_timeout_minutes: int = flag(30, help="minutes after which a lost process is noticed")

    def __post_init__(self) -> None:
        for name in ("tensor_model_parallel_size", "pipeline_model_parallel_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise UserError("--sequence-parallel needs --tensor-model-parallel-size of 2 or more, got 1")
        if self.overlap_param_gather and not self.use_distributed_optimizer:
            raise UserError("--overlap-param-gather needs --use-distributed-optimizer")
        if self.overlap_param_gather and not self.overlap_grad_reduce:
            raise UserError("--overlap-param-gather needs --overlap-grad-reduce")

    def data_parallel_size(self, world_size: int) -> int:
        """Replicas of the model among `world_size` processes.

        Raises:
            UserError: the processes cannot be divided so.
        """
        model_size = self.tensor_model_parallel_size * self.pipeline_model_parallel_size
        if world_size % model_size:
            raise UserError(
                f"--tensor-model-parallel-size {self.tensor_model_parallel_size} x "
                f"--pipeline-model-parallel-size {self.pipeline_model_parallel_size} = {model_size} "
                f"does not divide the number of processes, {world_size}"
            )
        return world_size // model_size
