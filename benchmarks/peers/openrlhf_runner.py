"""OpenRLHF's reward trainer over pairs of token ids: a runner of train.py.

Its model, collator, loss and loop. It needs deepspeed and flash-attn, which a host without CUDA cannot build:
empty modules stand in for both, torch's AdamW for deepspeed's engine. Padded batches, which its default
without flash-attn's packing is; other settings as train.py gives them to all.
"""

import argparse
import itertools
import sys
import time
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate  # noqa: F401  these three before the stand-ins below: they look for the real packages
import peft  # noqa: F401
import torch
import transformers  # noqa: F401
from protocol import Pair, parse_arguments, read_head, write_result
from torch.utils.data import DataLoader

ABSENT = ("deepspeed", "flash_attn")


class _Empty(types.ModuleType):
    """A module whose every name is an empty class."""

    __path__: Sequence[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(_StandIns())  # the last one asked: packages that are there are taken

from openrlhf.datasets import RewardDataset  # noqa: E402
from openrlhf.models import get_llm_for_sequence_regression  # noqa: E402
from openrlhf.trainer.rm_trainer import RewardModelTrainer  # noqa: E402
from openrlhf.utils import utils as openrlhf_utils  # noqa: E402


class Strategy:
    """What its loop asks of a DeepspeedStrategy, for one process; keeps the time and loss of each step."""

    def __init__(self, arguments: argparse.Namespace, *, has_margins: bool) -> None:
        self.ring_attn_group = None
        self.accumulated_gradient = 1
        self.device = torch.device(arguments.device)
        self.bf16 = arguments.bf16
        self.losses: list[torch.Tensor] = []
        self.ends: list[float] = []
        self.grad_norm = 0.0
        nothing = SimpleNamespace(key=None)
        self.args = SimpleNamespace(
            model=SimpleNamespace(
                aux_loss_coef=0.0, margin_loss_enable=has_margins, compute_fp32_loss_enable=arguments.bf16
            ),
            ds=SimpleNamespace(packing_samples=False),
            logger=SimpleNamespace(wandb=nothing, tensorboard_dir=None, logging_steps=1),
            train=SimpleNamespace(batch_size=arguments.batch_size),
            eval=SimpleNamespace(steps=-1),
            ckpt=SimpleNamespace(save_steps=-1),
        )

    def backward(self, loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.losses.append(loss.detach())
        loss.backward()

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, model: torch.nn.Module, scheduler: Any
    ) -> None:
        self.grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def get_grad_norm(self, model: torch.nn.Module) -> float:
        return self.grad_norm

    def all_reduce(self, values: dict[str, float]) -> dict[str, float]:
        return values

    def is_rank_0(self) -> bool:
        return True

    def print(self, *words: Any) -> None:
        print(*words)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--loss", default="sigmoid", choices=("sigmoid", "logexp"), help="its PairWiseLoss or LogExpLoss"
    )
    arguments, pairs = parse_arguments(parser)
    openrlhf_utils.convert_to_torch_dtype = lambda name: torch.float32  # it knows bf16 and fp16 alone
    model = get_llm_for_sequence_regression(arguments.model, "reward", attn_implementation="sdpa")
    with torch.no_grad():
        model.score.weight.copy_(read_head(Path(arguments.model)))
    model.to(arguments.device)
    if arguments.recompute:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.0)
    tokenizer = SimpleNamespace(pad_token_id=0)
    collator = SimpleNamespace(is_dpo=False, tokenizer=tokenizer)
    strategy = Strategy(arguments, has_margins="margin" in pairs[0])
    trainer = RewardModelTrainer(
        model=model,
        strategy=strategy,
        optim=optimizer,
        train_dataloader=DataLoader(
            [row_of(pair) for pair in pairs],
            batch_size=arguments.batch_size,
            collate_fn=lambda rows: RewardDataset.collate_fn(collator, rows),
        ),
        eval_dataloader=None,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        tokenizer=tokenizer,
        max_epochs=1,
        loss=arguments.loss,
    )
    started = time.perf_counter()
    with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.bf16):
        trainer.fit(strategy.args)
    ends = [started, *strategy.ends]
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    write_result(arguments.output, seconds, [float(loss) for loss in strategy.losses])


def row_of(pair: Pair) -> tuple[Any, ...]:
    """An item of its RewardDataset: ids and mask of each side, [1, length], and the margin, 0 for none."""
    sides = [torch.tensor([pair[side]]) for side in ("chosen_ids", "rejected_ids")]
    chosen, rejected = sides
    return chosen, torch.ones_like(chosen), rejected, torch.ones_like(rejected), pair.get("margin", 0.0)


if __name__ == "__main__":
    main()
