"""Adapters of experts are trained step for step as by PEFT's formula over transformers' model, and PEFT."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from modellink_rm.dataset.dataset import Dataset, open_dataset
from tests.distributed import Workers
from tests.lora_reference import (
    ATTENTION,
    EXPERTS,
    WRAPPED,
    apply_adapter,
    trained_tensors,
    wrappers,
    write_adapter,
)
from tests.marks import full
from tests.parity.family_cases import CASES
from tests.parity.test_lora import LAYOUTS, NUM_ROWS, our_run, reference_run
from tests.runs import RunResult
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_mixtral

# The linears beside the experts that have adapters: of attention, dense layers and shared experts.
LINEARS = {
    "mixtral": ATTENTION,
    "qwen3-moe": (),
    "qwen2-moe": ("o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt-oss": ("q_proj",),
    "deepseek-v2": ("o_proj", "down_proj"),
}
# Gate and up of an expert a row of each in turn, in transformers' tensors.
INTERLEAVED = {"gpt-oss"}


def prepared(
    family: str, tmp_path: Path, experts: tuple[str, ...] = EXPERTS
) -> tuple[PreTrainedModel, Dataset]:
    """A family's model, a random adapter of it and pairs below tmp_path."""
    case = CASES[family]
    model = case.model()
    case.write(tmp_path / "model", dict(model.state_dict()))
    write_adapter(model, tmp_path / "adapter", targets=LINEARS[family], experts=experts)
    write_tokenizer(tmp_path / "tokenizer")
    return model, open_dataset(write_random_rows(tmp_path / "pairs", NUM_ROWS))


def check(
    run: RunResult,
    losses: list[float],
    expected: dict[str, torch.Tensor],
    *,
    family: str,
    experts: tuple[str, ...] = EXPERTS,
) -> None:
    """Equal losses, and an equal A and B of every expert, by PEFT's names."""
    # Scores are some tens: so many times the rounding of a loss of 1.
    assert run.column("loss") == pytest.approx(losses, abs=1e-4, rel=1e-4)
    names = [name for name in run.weights if ".experts." in name and ".adapter." in name]
    assert names
    num_experts = 1 + max(int(name.split(".")[5]) for name in names)
    for name in names:
        _, _, layer, _, _, number, matrix, _, letter = name.split(".")
        own = {"fc1": "gate_up_proj", "fc2": "down_proj"}[matrix]
        wrapper = wrappers(experts, f"model.layers.{layer}.mlp.experts")[own]
        theirs = expected[f"{WRAPPED}{wrapper}.lora_{letter.upper()}.weight"]
        if letter == "a":
            theirs = theirs.view(num_experts, -1, theirs.shape[1])[int(number)]
        else:
            theirs = theirs.view(len(theirs), -1, num_experts)[:, :, int(number)]
            if matrix == "fc1" and family in INTERLEAVED:
                theirs = torch.cat((theirs[0::2], theirs[1::2]))
        # Adam turns rounding noise in a gradient near 0 into a part of a step.
        torch.testing.assert_close(run.weights[name], theirs, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("mixtral", "EP2"),
        *(full(family, "one process") for family in LINEARS),
        *(
            full("mixtral", layout)
            for layout in LAYOUTS
            if layout not in ("one process", "EP2", "prompts apart")
        ),
        *(full("qwen2-moe", layout) for layout in ("ETP2", "TP2+SP+EP2, distributed optimizer")),
        *(full("gpt-oss", layout) for layout in ("TP2+SP", "EP2")),
        full("deepseek-v2", "ETP2, distributed optimizer"),
    ],
)
def test_steps_equal_those_of_the_formula(family: str, layout: str, workers: Workers, tmp_path: Path) -> None:
    model, dataset = prepared(family, tmp_path)
    apply_adapter(model, tmp_path / "adapter")
    losses = reference_run(model, dataset)
    run = our_run(workers, layout, tmp_path)
    check(run, losses, trained_tensors(model), family=family)


@pytest.mark.full
@pytest.mark.parametrize("experts", [("gate_up_proj",), ("down_proj",)])
@pytest.mark.parametrize("layout", ["one process", "EP2"])
def test_steps_equal_those_of_the_formula_on_one_matrix(
    experts: tuple[str, ...], layout: str, workers: Workers, tmp_path: Path
) -> None:
    model, dataset = prepared("qwen3-moe", tmp_path, experts)
    apply_adapter(model, tmp_path / "adapter")
    losses = reference_run(model, dataset)
    run = our_run(workers, layout, tmp_path)
    check(run, losses, trained_tensors(model), family="qwen3-moe", experts=experts)


@pytest.mark.full
@pytest.mark.parametrize("layout", ["one process", "EP2"])
def test_losses_of_small_scores_equal_those_of_peft(layout: str, workers: Workers, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = write_tiny_mixtral(tmp_path / "model", kind="score")
    write_adapter(model, tmp_path / "adapter", targets=ATTENTION, experts=EXPERTS)
    write_tokenizer(tmp_path / "tokenizer")
    dataset = open_dataset(write_random_rows(tmp_path / "pairs", NUM_ROWS))
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True)
    losses = reference_run(wrapped, dataset)
    # Sums in another order: float32 rounding, grown by four Adam steps.
    assert our_run(workers, layout, tmp_path).column("loss") == pytest.approx(losses, abs=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("layout", ["one process", "TP2+SP+EP2, distributed optimizer"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_steps_equal_those_of_peft(family: str, layout: str, workers: Workers, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, dataset = prepared(family, tmp_path)
    wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "adapter", is_trainable=True)
    losses = reference_run(wrapped, dataset)
    run = our_run(workers, layout, tmp_path)
    expected = {
        name.replace(".default.", ".").replace("modules_to_save.", ""): parameter.detach()
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad
    }
    check(run, losses, expected, family=family)
