"""A plain loop over transformers' model, one response at a time, gives the trainer's numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.order import SampleOrder
from modellink_rm.dataset.reader import ExampleReader
from tests.distributed import Workers
from tests.marks import full
from tests.runs import run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import (
    write_tiny_chatglm,
    write_tiny_glm,
    write_tiny_llama,
    write_tiny_mistral,
    write_tiny_qwen2,
)

TP = "--tensor-model-parallel-size 2 --sequence-parallel"
FAMILIES: dict[str, tuple[Callable[..., Any], str]] = {
    "llama": (write_tiny_llama, ""),
    "mistral": (write_tiny_mistral, ""),
    "qwen2": (write_tiny_qwen2, ""),
    "glm": (write_tiny_glm, ""),
    "chatglm": (write_tiny_chatglm, "--no-post-layer-norm"),
}
BATCH_SIZE, NUM_STEPS, LEARNING_RATE, WEIGHT_DECAY, NUM_ROWS, SEED = 5, 12, 3e-4, 0.1, 30, 77


def plain_loop(
    model: Any,
    head: dict[str, torch.Tensor],
    dataset: Dataset,
    reader: ExampleReader,
    *,
    final_norm: bool,
) -> list[float]:
    """Losses of the steps."""
    weight = torch.nn.Parameter(head["v_head.summary.weight"].clone())
    bias = torch.nn.Parameter(head["v_head.summary.bias"].clone())
    hidden: list[torch.Tensor] = []
    body = model.model
    body.norm.register_forward_hook(
        lambda _, inputs, output: hidden.append(output if final_norm else inputs[0])
    )
    trained = [
        parameter
        for name, parameter in body.named_parameters()
        if final_norm or name != "norm.weight"  # unused without the final norm
    ]
    matrices = [parameter for parameter in [*trained, weight] if parameter.dim() > 1]
    vectors = [parameter for parameter in [*trained, bias] if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

    def score(ids: np.ndarray) -> torch.Tensor:
        body(torch.from_numpy(ids.astype(np.int64))[None])
        return torch.nn.functional.linear(hidden.pop()[0, -1], weight, bias)[0]

    losses = []
    order = SampleOrder(num_examples=NUM_ROWS, shuffle=True, seed=SEED)
    for step in range(NUM_STEPS):
        rows = order.samples(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        pairs = [reader.read(dataset, row).responses for row in rows]
        margins = torch.stack([score(one.input_ids) - score(other.input_ids) for one, other in pairs])
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("family", "world_size", "flags"),
    [
        *((family, 1, "") for family in FAMILIES),
        *(full(family, 2, TP) for family in FAMILIES),
        *(full(family, 2, "--use-distributed-optimizer") for family in FAMILIES),
    ],
)
def test_losses_equal_a_plain_loop(
    family: str, world_size: int, flags: str, workers: Workers, tmp_path: Path
) -> None:
    write, family_flags = FAMILIES[family]
    reference = write(tmp_path / "model", value_head=True)
    write_tokenizer(tmp_path / "tokenizer")
    prefix = write_random_rows(tmp_path / "pairs", NUM_ROWS)
    reader = ExampleReader(seq_length=40, truncation="right", num_closing_tokens=1, num_ids=320)
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {tmp_path}/model --load-checkpoint-loosely "
        f"--tokenizer-name-or-path {tmp_path}/tokenizer --data-path {prefix} --split 1,0,0 --seq-length 40 "
        f"--global-batch-size {BATCH_SIZE} --train-iters {NUM_STEPS} --lr {LEARNING_RATE} --seed {SEED} "
        f"--weight-decay {WEIGHT_DECAY} {family_flags} {flags}"
    )
    run = run_training(workers, world_size, arguments.split(), tmp_path / "run", saves=False)
    head = load_file(tmp_path / "model" / "value_head.safetensors")
    losses = plain_loop(
        reference, head, open_dataset(prefix), reader, final_norm="--no-post-layer-norm" not in family_flags
    )
    # Sums in another order: float32 rounding, grown by twelve Adam steps.
    assert run.column("loss") == pytest.approx(losses, abs=1e-5)
