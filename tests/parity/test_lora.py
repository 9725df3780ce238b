"""Adapters are trained step for step as by PEFT's formula over transformers' model, and by PEFT itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.order import SampleOrder
from modellink_rm.dataset.reader import ExampleReader
from tests.distributed import Workers
from tests.lora_reference import (
    ALL_LINEAR,
    ATTENTION,
    WRAPPED,
    apply_adapter,
    trained_tensors,
    write_adapter,
)
from tests.marks import full
from tests.parity.family_cases import CASES
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

BATCH_SIZE, NUM_STEPS, LEARNING_RATE, NUM_ROWS, SEED = 5, 4, 3e-3, 30, 77
TP = "--tensor-model-parallel-size 2"
LAYOUTS = {
    "one process": (1, ""),
    "TP2": (2, TP),
    "TP2+SP": (2, f"{TP} --sequence-parallel"),
    "PP2": (2, "--pipeline-model-parallel-size 2"),
    "CP2": (2, "--context-parallel-size 2"),
    "DP2, distributed optimizer": (2, "--use-distributed-optimizer"),
    "TP2+SP+PP2": (4, f"{TP} --sequence-parallel --pipeline-model-parallel-size 2"),
    "EP2": (2, "--expert-model-parallel-size 2"),
    "TP2+SP+EP2, distributed optimizer": (
        2,
        f"{TP} --sequence-parallel --expert-model-parallel-size 2 --use-distributed-optimizer",
    ),
    "ETP2": (2, "--expert-tensor-parallel-size 2"),
    "ETP2, distributed optimizer": (2, "--expert-tensor-parallel-size 2 --use-distributed-optimizer"),
    "prompts apart": (1, "--no-prefix-sharing"),
    "recomputed": (1, "--recompute-granularity full"),
    "recomputed in part": (1, "--recompute-granularity selective"),
    "MLP recomputed": (1, "--recompute-granularity selective --recompute-modules mlp"),
}
QUICK = {"TP2+SP"}


def reference_run(model: PreTrainedModel, dataset: Dataset) -> list[float]:
    """Losses of the steps of a plain loop over what is trained of a model."""
    reader = ExampleReader(seq_length=40, truncation="right", num_closing_tokens=1, num_ids=320)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    order = SampleOrder(num_examples=NUM_ROWS, shuffle=True, seed=SEED)

    def score(ids: np.ndarray) -> torch.Tensor:
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0, 0]

    losses = []
    for step in range(NUM_STEPS):
        rows = order.samples(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        pairs = [reader.read(dataset, row).responses for row in rows]
        margins = torch.stack([score(one.input_ids) - score(other.input_ids) for one, other in pairs])
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def our_run(workers: Workers, layout: str, tmp_path: Path, more: str = "") -> RunResult:
    """The same steps of ours, from the adapter in tmp_path/adapter."""
    world_size, flags = LAYOUTS[layout]
    arguments = (
        f"--stage rm --is-pairwise-dataset --load {tmp_path}/model --load-adapter {tmp_path}/adapter "
        f"--tokenizer-name-or-path {tmp_path}/tokenizer --data-path {tmp_path}/pairs --split 1,0,0 "
        f"--seq-length 40 --global-batch-size {BATCH_SIZE} --train-iters {NUM_STEPS} --lr {LEARNING_RATE} "
        f"--seed {SEED} --weight-decay 0 --make-vocab-size-divisible-by 1 {flags} {more}"
    )
    return run_training(workers, world_size, arguments.split(), tmp_path / "run", saves=False)


def prepared(tmp_path: Path, **options: Any) -> tuple[PreTrainedModel, Dataset]:
    """A model, a random adapter of it and pairs below tmp_path; `options` are those of `write_adapter`."""
    model = write_tiny_llama(tmp_path / "model", kind="score")
    write_adapter(model, tmp_path / "adapter", **options)
    write_tokenizer(tmp_path / "tokenizer")
    return model, open_dataset(write_random_rows(tmp_path / "pairs", NUM_ROWS))


def check_weights(run: RunResult, expected: dict[str, torch.Tensor], *, targets: tuple[str, ...]) -> None:
    """Every A of ours is PEFT's, and every B whose rows are in the order of PEFT's."""
    engine = {"o_proj": "self_attention.linear_proj", "down_proj": "mlp.linear_fc2"}
    many = {
        "self_attention.linear_qkv": ("q_proj", "k_proj", "v_proj"),
        "mlp.linear_fc1": ("gate_proj", "up_proj"),
    }
    places = {"self_attention": "self_attn", "mlp": "mlp"}
    compared = 0
    for layer in range(4):
        for name, parts in {**{place: (part,) for part, place in engine.items()}, **many}.items():
            own = [part for part in parts if part in targets]
            if not own:
                continue
            theirs = f"{WRAPPED}model.layers.{layer}.{places[name.split('.')[0]]}"
            a = torch.cat([expected[f"{theirs}.{part}.lora_A.weight"] for part in own])
            # Adam turns rounding noise in a gradient near 0 into a part of a step.
            torch.testing.assert_close(
                run.weights[f"decoder.layers.{layer}.{name}.adapter.a"], a, atol=1e-4, rtol=1e-4
            )
            compared += 1
            if name != "self_attention.linear_qkv" and own == list(parts):
                b = torch.cat([expected[f"{theirs}.{part}.lora_B.weight"] for part in own])
                torch.testing.assert_close(
                    run.weights[f"decoder.layers.{layer}.{name}.adapter.b"], b, atol=1e-4, rtol=1e-4
                )
    assert compared
    torch.testing.assert_close(
        run.weights["rm_head.weight"], expected[f"{WRAPPED}score.weight"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    "layout",
    [name if name in QUICK else full(name) for name in LAYOUTS if "EP2" not in name and "ETP2" not in name],
)
def test_steps_equal_those_of_the_formula(layout: str, workers: Workers, tmp_path: Path) -> None:
    model, dataset = prepared(tmp_path)
    apply_adapter(model, tmp_path / "adapter")
    losses = reference_run(model, dataset)
    run = our_run(workers, layout, tmp_path)
    # Sums in another order: float32 rounding, grown by four Adam steps.
    assert run.column("loss") == pytest.approx(losses, abs=1e-5)
    check_weights(run, trained_tensors(model), targets=ALL_LINEAR)


@pytest.mark.full
@pytest.mark.parametrize("layout", ["one process", "TP2+SP"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("gate_proj", "down_proj"), ("o_proj",)])
def test_steps_equal_those_of_the_formula_on_some_matrices(
    layout: str, targets: tuple[str, ...], workers: Workers, tmp_path: Path
) -> None:
    model, dataset = prepared(tmp_path, targets=targets, use_rslora=True)
    apply_adapter(model, tmp_path / "adapter")
    losses = reference_run(model, dataset)
    run = our_run(workers, layout, tmp_path)
    assert run.column("loss") == pytest.approx(losses, abs=1e-5)
    check_weights(run, trained_tensors(model), targets=targets)


# Several matrices in one tensor; norms of queries and keys, shared key heads; latent attention; shared
# experts beside experts that have no adapters.
FAMILIES = {
    "phi-4": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "qwen3": ALL_LINEAR,
    "gemma-2": ALL_LINEAR,
    "deepseek-v2": ("q_b_proj", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen2-moe": ALL_LINEAR,
    "mixtral": ATTENTION,
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("family", "layout"),
    [
        *((family, layout) for family in FAMILIES for layout in ("one process", "TP2+SP")),
        ("mixtral", "EP2"),
        ("qwen2-moe", "TP2+SP+EP2, distributed optimizer"),
    ],
)
def test_steps_of_every_kind_of_layer_equal_those_of_the_formula(
    family: str, layout: str, workers: Workers, tmp_path: Path
) -> None:
    case = CASES[family]
    model = case.model()
    case.write(tmp_path / "model", dict(model.state_dict()))
    write_adapter(model, tmp_path / "adapter", targets=FAMILIES[family])
    write_tokenizer(tmp_path / "tokenizer")
    dataset = open_dataset(write_random_rows(tmp_path / "pairs", NUM_ROWS))
    apply_adapter(model, tmp_path / "adapter")
    losses = reference_run(model, dataset)
    run = our_run(workers, layout, tmp_path)
    # Scores are some tens: so many times the rounding of a loss of 1.
    assert run.column("loss") == pytest.approx(losses, abs=1e-4, rel=1e-4)
    expected = trained_tensors(model)[f"{WRAPPED}score.weight"]
    torch.testing.assert_close(run.weights["rm_head.weight"], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("layout", ["one process", "TP2", "PP2"])
def test_steps_equal_those_of_peft(layout: str, workers: Workers, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, dataset = prepared(tmp_path)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True)
    losses = reference_run(wrapped, dataset)
    run = our_run(workers, layout, tmp_path)
    assert run.column("loss") == pytest.approx(losses, abs=1e-5)
    expected = {
        name.replace(".default.", ".").replace("modules_to_save.", ""): parameter.detach()
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad
    }
    check_weights(run, expected, targets=ALL_LINEAR)
