"""Short training runs in the test's processes, and what they leave to compare."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import Workers

# What expert tensor parallelism divides of the tensors of an expert.
_DIVIDED_OF_EXPERTS = {
    "fc1.weight": 0,
    "fc1.adapter.a": None,
    "fc1.adapter.b": 0,
    "fc2.weight": 1,
    "fc2.adapter.a": 1,
    "fc2.adapter.b": None,
}


@dataclass(frozen=True)
class RunResult:
    """What a run leaves.

    Attributes:
        rows: its metrics.jsonl.
        weights: every parameter whole, by its name in the engine, layers numbered over the model.
    """

    rows: list[dict[str, Any]]
    weights: dict[str, torch.Tensor]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Rows of steps, not of evaluations."""
        return [row for row in self.rows if "loss" in row]

    def column(self, name: str) -> list[float]:
        """One value of every step."""
        return [row[name] for row in self.steps]


def run_training(
    workers: Workers, world_size: int, arguments: list[str], directory: Path, *, saves: bool = True
) -> RunResult:
    """Train in `world_size` processes.

    Args:
        directory: --save, for metrics.jsonl and for checkpoints where the run saves any.
        saves: without it the run writes no checkpoint, which takes longer than a few tiny steps.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = workers.run(train_part, world_size, [*arguments, "--save", str(directory)], saves)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return RunResult(rows=rows, weights=_merged(parts))


def train_part(argv: list[str], saves: bool = True) -> dict[str, Any]:
    """One rank of a run: its parameters, and where they stand in the model.

    Args:
        saves: without it, nothing but metrics.jsonl goes to --save.
    """
    from modellink_rm.base.log import set_up_logging
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.trainer import kernels_of, train

    set_up_logging()
    config = run_config(argv)
    plan = plan_run(config, world_size=int(os.environ["WORLD_SIZE"]))
    platform = detect_platform(config.parallel.distributed_backend)
    with (
        pytest.MonkeyPatch.context() as patch,
        process_groups(config.parallel, platform, seed=config.training.seed) as ranks,
    ):
        if not saves:
            patch.setattr("modellink_rm.train.trainer.save", lambda *_: None)
        state = train(plan, platform, kernels_of(plan, platform), ranks)
        parameters = {}
        for name, tensor in (pair for chunk in state.model for pair in chunk.module.global_tensors()):
            dimension = tensor.partition_dim if getattr(tensor, "tensor_model_parallel", False) else None
            rank = ranks.tp_rank
            if ".experts." in name and ranks.etp_size > 1:
                dimension, rank = _DIVIDED_OF_EXPERTS[name.split(".", 6)[6]], ranks.etp_rank
            parameters[name] = (dimension, rank, tensor.detach().float().clone().numpy())
        return {"dp_rank": ranks.dp_rank, "parameters": parameters}


def _merged(parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Whole parameters from the ranks' parts; copies must be equal to the last bit."""
    shards: dict[str, dict[int, torch.Tensor]] = {}
    dimensions: dict[str, int | None] = {}
    for part in parts:
        for name, (dimension, rank, array) in part["parameters"].items():
            tensor = torch.from_numpy(array)
            known = shards.setdefault(name, {}).setdefault(rank if dimension is not None else 0, tensor)
            assert torch.equal(known, tensor), f"{name} differs between its copies"
            dimensions[name] = dimension
    whole = {}
    for name, by_rank in shards.items():
        tensors = [by_rank[rank] for rank in sorted(by_rank)]
        dimension = dimensions[name]
        if dimension is None or len(tensors) == 1:
            whole[name] = tensors[0]
        elif name.endswith(("fc1.weight", "fc1.adapter.b")):  # each rank holds its part of gate, then of up
            halves = [tensor.chunk(2) for tensor in tensors]
            whole[name] = torch.cat([half[part] for part in (0, 1) for half in halves])
        else:
            whole[name] = torch.cat(tensors, dim=dimension)
    return whole
