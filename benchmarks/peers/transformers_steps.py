"""What runners over a transformers Trainer share: the settings, and the time of every step."""

import argparse
import itertools
import tempfile
import time
from typing import Any

import torch
from protocol import write_result
from transformers import TrainerCallback


def training_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Words for TrainingArguments or a subclass; what is not named stays at its default."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="runner-"),
        "max_steps": arguments.steps,
        "per_device_train_batch_size": arguments.micro_batch_size,
        "gradient_accumulation_steps": arguments.batch_size // arguments.micro_batch_size,
        "learning_rate": arguments.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "use_cpu": arguments.device == "cpu",
        "bf16": arguments.bf16,
        "gradient_checkpointing": arguments.recompute,
        "save_strategy": "no",
        "report_to": "none",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


class KeepsLosses:
    """Keeps each step's loss; before a Trainer in the list of bases."""

    def __init__(self, **words: Any) -> None:
        self.losses: list[torch.Tensor] = []
        super().__init__(**words)

    def compute_loss(self, *arguments: Any, **words: Any) -> Any:
        result = super().compute_loss(*arguments, **words)  # type: ignore[misc]
        self.losses.append((result[0] if isinstance(result, tuple) else result).detach())
        return result


class StepTimes(TrainerCallback):
    """Seconds from the end of one step to the end of the next, the loading of data within."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def on_train_begin(self, *arguments: Any, **words: Any) -> None:
        self._ends.append(time.perf_counter())

    def on_step_end(self, *arguments: Any, **words: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())

    def write(self, arguments: argparse.Namespace, losses: list[torch.Tensor]) -> None:
        """Write the result of a run; a step's loss is the mean over its equal micro-batches."""
        seconds = [after - before for before, after in itertools.pairwise(self._ends)]
        size = arguments.batch_size // arguments.micro_batch_size
        steps = [losses[start : start + size] for start in range(0, len(losses), size)]
        means = [sum(map(float, step)) / size for step in steps]
        write_result(arguments.output, seconds, means)
