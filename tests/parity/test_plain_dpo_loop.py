"""A plain loop over transformers' causal language model gives the numbers of --stage dpo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, Gemma2Config

from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.order import SampleOrder
from modellink_rm.dataset.reader import ExampleReader
from tests.distributed import Workers
from tests.lora_reference import apply_adapter, write_adapter
from tests.marks import full
from tests.runs import RunResult, run_training
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import (
    SHAPE,
    write_model,
    write_tiny_chatglm,
    write_tiny_glm,
    write_tiny_llama,
    write_tiny_mixtral,
    write_tiny_qwen2,
)

BATCH_SIZE, NUM_STEPS, LEARNING_RATE, NUM_ROWS, SEED, BETA = 5, 8, 3e-4, 30, 77, 0.3


def write_tied_llama(directory: Path) -> Any:
    return write_tiny_llama(directory, tie_word_embeddings=True)


def write_gemma2(directory: Path) -> Any:
    """Tied by default, and with a softcap of its logits that they come near to."""
    fields = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "final_logit_softcapping": 1.5}
    return write_model(directory, Gemma2Config, {**SHAPE, **fields})


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "llama": write_tiny_llama,
    "tied_llama": write_tied_llama,
    "qwen2": write_tiny_qwen2,
    "glm": write_tiny_glm,
    "chatglm": write_tiny_chatglm,
    "gemma2": write_gemma2,
    "mixtral": write_tiny_mixtral,
}
Losses = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def sigmoid(chosen: Tensor, rejected: Tensor, num_chosen: Tensor, num_rejected: Tensor) -> Tensor:
    return -logsigmoid(BETA * (chosen - rejected))


def answer_log_prob(model: Any, ids: np.ndarray, num_prompt_tokens: int) -> tuple[Tensor, Tensor]:
    """The log-probability of an answer, and the number of its tokens."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    log_probs = model(tokens[None], use_cache=False).logits[0].float().log_softmax(-1)
    found = log_probs[:-1].gather(1, tokens[1:, None])[num_prompt_tokens - 1 :, 0]
    return found.sum(), torch.tensor(float(len(found)))


def plain_loop(model: Any, reference: Any, dataset: Dataset, reader: ExampleReader) -> dict[str, list[float]]:
    """Loss, mean implicit rewards and gradient norm of the steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    order = SampleOrder(num_examples=NUM_ROWS, shuffle=True, seed=SEED)
    found: dict[str, list[float]] = {
        name: [] for name in ("loss", "chosen_reward", "rejected_reward", "chosen_log_prob", "grad_norm")
    }
    for step in range(NUM_STEPS):
        rows = order.samples(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        sides: list[list[Tensor]] = [[], []]
        policy: list[Tensor] = []
        for row in rows:
            for side, response in enumerate(reader.read(dataset, row).responses):
                own, _ = answer_log_prob(model, response.input_ids, response.num_prompt_tokens)
                with torch.no_grad():
                    other, _ = answer_log_prob(reference, response.input_ids, response.num_prompt_tokens)
                sides[side].append(BETA * (own - other))
                policy += [own.detach()] if side == 0 else []
        chosen, rejected = (torch.stack(side) for side in sides)
        loss = -logsigmoid(chosen - rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for name, value in (
            ("loss", loss),
            ("chosen_reward", chosen.mean()),
            ("rejected_reward", rejected.mean()),
            ("chosen_log_prob", torch.stack(policy).mean()),
            ("grad_norm", norm),
        ):
            found[name].append(value.item())
    return found


def prepared(directory: Path, family: str) -> tuple[Any, Any, Dataset, ExampleReader, list[str]]:
    """The model, its reference, the data, its reader, and the flags of a run on them."""
    model = FAMILIES[family](directory / "model")
    reference = FAMILIES[family](directory / "reference") if family == "chatglm" else None
    if reference is None:
        reference = AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)
    write_tokenizer(directory / "tokenizer")
    prefix = write_random_rows(directory / "pairs", NUM_ROWS)
    reader = ExampleReader(seq_length=40, truncation="right", num_closing_tokens=1, num_ids=320)
    flags = (
        f"--stage dpo --load {directory}/model --tokenizer-name-or-path {directory}/tokenizer "
        f"--data-path {prefix} --split 1,0,0 --seq-length 40 --global-batch-size {BATCH_SIZE} "
        f"--train-iters {NUM_STEPS} --lr {LEARNING_RATE} --seed {SEED} --weight-decay 0 --dpo-beta {BETA} "
        "--max-tokens-per-micro-batch 100"
    )
    return model.train(), reference.eval(), open_dataset(prefix), reader, flags.split()


def check_equal(run: RunResult, expected: dict[str, list[float]]) -> None:
    # Sums in another order: float32 rounding, grown by eight Adam steps. The log-probabilities of an answer
    # add up to hundreds, of which the last bit is 1e-5.
    for name in ("loss", "chosen_reward", "rejected_reward"):
        assert run.column(name) == pytest.approx(expected[name], abs=1e-5), name
    assert run.column("chosen_log_prob") == pytest.approx(expected["chosen_log_prob"], rel=1e-5)
    assert run.column("grad_norm") == pytest.approx(expected["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    "family", ["llama", "tied_llama", *(full(one) for one in FAMILIES if not one.endswith("llama"))]
)
def test_dpo_equals_a_plain_loop(family: str, workers: Workers, tmp_path: Path) -> None:
    model, reference, dataset, reader, flags = prepared(tmp_path, family)
    run = run_training(workers, 1, flags, tmp_path / "run", saves=False)
    check_equal(run, plain_loop(model, reference, dataset, reader))


@pytest.mark.full
@pytest.mark.parametrize("names_the_base", [False, True])
def test_dpo_of_adapters_equals_a_plain_loop(names_the_base: bool, workers: Workers, tmp_path: Path) -> None:
    """The reference is what the run starts from, with its adapters, or the model that is named."""
    model, reference, dataset, reader, flags = prepared(tmp_path, "llama")
    adapter = write_adapter(model, tmp_path / "adapter", has_head=False)
    apply_adapter(model, adapter)
    flags += ["--load-adapter", str(adapter)]
    if names_the_base:
        flags += ["--reference-load", str(tmp_path / "model")]
    else:
        apply_adapter(reference, adapter)
    run = run_training(workers, 1, flags, tmp_path / "run", saves=False)
    check_equal(run, plain_loop(model, reference, dataset, reader))
    assert (abs(run.steps[0]["loss"] - np.log(2)) > 1e-3) == names_the_base
