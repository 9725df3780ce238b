"""Flags that divide the model and the data over processes."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallelism.

    The data-parallel size follows: processes / (tensor * pipeline * context).
    """

    tensor_model_parallel_size: int = flag(1, minimum=1, help="processes that share each layer's matrices")
    pipeline_model_parallel_size: int = flag(1, minimum=1, help="stages that the layers are divided into")
    context_parallel_size: int = flag(1, minimum=1, help="processes that share each sequence by tokens")
    num_layers_per_virtual_pipeline_stage: int | None = flag(
        None,
        minimum=1,
        level="rare",
        help="layers of a virtual stage: each process has several, which interleave, so it idles less",
    )
    expert_model_parallel_size: int = flag(
        1,
        minimum=1,
        level="rare",
        help="processes that a layer's experts are divided over, of all that share a stage",
    )
    expert_tensor_parallel_size: int = flag(
        1, minimum=1, level="rare", help="processes that share each expert's matrices"
    )
    sequence_parallel: bool = flag(
        False, help="divide norms and residuals over the tensor-parallel processes by tokens"
    )
    distributed_backend: str | None = flag(
        None,
        level="rare",
        help="nccl on GPUs, gloo on CPUs; by default chosen by the device",
        choices=("nccl", "gloo"),
    )
    distributed_timeout_minutes: int = flag(
        30, minimum=1, level="rare", help="minutes after which a lost process is noticed"
    )

    def __post_init__(self) -> None:
        check_minimums(self)
        if self.num_layers_per_virtual_pipeline_stage and self.pipeline_model_parallel_size == 1:
            raise UserError(
                "--num-layers-per-virtual-pipeline-stage needs --pipeline-model-parallel-size of 2 or more, "
                "got 1"
            )
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise UserError("--sequence-parallel needs --tensor-model-parallel-size of 2 or more, got 1")

    def num_virtual_stages(self, num_layers: int) -> int:
        """Model chunks that each process holds: 1 unless stages are interleaved."""
        if self.num_layers_per_virtual_pipeline_stage is None:
            return 1
        return num_layers // self.pipeline_model_parallel_size // self.num_layers_per_virtual_pipeline_stage

    def data_parallel_size(self, world_size: int) -> int:
        """Replicas of the model among `world_size` processes.

        Raises:
            UserError: the parallel sizes do not divide the number of processes, or of a stage's.
        """
        self.check_world_size(world_size)
        return world_size // self._model_parallel_size

    def check_world_size(self, world_size: int) -> None:
        """Check that `world_size` processes hold whole replicas of the model, and of its experts.

        Raises:
            UserError: the parallel sizes do not divide the number of processes, or of a stage's.
        """
        stage_size = world_size // self.pipeline_model_parallel_size
        if world_size % self._model_parallel_size == 0:
            if stage_size % self.expert_group_size:
                raise UserError(
                    f"--expert-model-parallel-size {self.expert_model_parallel_size} x "
                    f"--expert-tensor-parallel-size {self.expert_tensor_parallel_size} = "
                    f"{self.expert_group_size} does not divide the {stage_size} processes of a pipeline stage"
                )
            return
        sizes = {
            "--tensor-model-parallel-size": self.tensor_model_parallel_size,
            "--pipeline-model-parallel-size": self.pipeline_model_parallel_size,
        }
        if self.context_parallel_size > 1:
            sizes["--context-parallel-size"] = self.context_parallel_size
        raise UserError(
            f"{' x '.join(f'{flag} {size}' for flag, size in sizes.items())} = {self._model_parallel_size} "
            f"does not divide the number of processes, {world_size}"
        )

    @property
    def _model_parallel_size(self) -> int:
        """Processes that hold one replica of the model."""
        return (
            self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size
        )

    @property
    def expert_group_size(self) -> int:
        """Processes that exchange tokens because they share the experts of a layer."""
        return self.expert_model_parallel_size * self.expert_tensor_parallel_size

    def tokens_divisible_by(self) -> int:
        """The number of tokens of which a micro-batch's length must be a multiple.

        Each context-parallel rank takes two slices, which sequence parallelism divides again.
        """
        slices = 2 * self.context_parallel_size if self.context_parallel_size > 1 else 1
        return slices * (self.tensor_model_parallel_size if self.sequence_parallel else 1)
