"""The model card: what the run was."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from modellink_rm.adapters.lora import Lora
from modellink_rm.checkpoint.base_model import BASE_MODEL_FOLDER
from modellink_rm.checkpoint.contract import InferenceContract, read_contract
from modellink_rm.checkpoint.hf.form import TOKEN_CLASSIFIER, TRANSFORMERS, Form
from modellink_rm.checkpoint.layout import CheckpointInfo, read_checkpoint_info
from modellink_rm.config.objective import ObjectiveConfig
from modellink_rm.conversion.adapter import adapter_card
from modellink_rm.conversion.card import model_card
from modellink_rm.conversion.padding import PadToken
from modellink_rm.metrics.normalization import Normalization

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def card_of(
    directory: Path,
    objective: ObjectiveConfig,
    form: Form = TRANSFORMERS,
    *,
    data: tuple[dict[str, Any], ...] | None = None,
) -> str:
    (directory / BASE_MODEL_FOLDER).mkdir(parents=True)
    (directory / BASE_MODEL_FOLDER / "config.json").write_text('{"model_type": "llama"}')
    run = read_checkpoint_info(CHECKPOINT).run
    flags = json.loads(json.dumps(dataclasses.asdict(objective)))
    run = dataclasses.replace(run, config={**run.config, "objective": flags}, data=data)
    return model_card(
        CheckpointInfo(path=directory, run=run),
        read_contract(CHECKPOINT),
        form=form,
        dtype=torch.float32,
        pad=PadToken(token="<pad>", index=0, is_new=False),
        caveat=None,
    )


def test_a_row_of_metrics_that_is_none_is_left_out(tmp_path: Path) -> None:
    rows = [
        '{"iteration": "1", "loss": 9}',
        '{"iteration": null, "loss": 8}',
        "[]",
        '{"iteration": 1, "loss": 7}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    card = card_of(tmp_path / "iter_0000002", ObjectiveConfig())
    assert "After step 2." in card
    assert "| training loss, after step 1 | 7 |" in card


def test_metrics_of_an_earlier_step_say_so_and_those_before_training_are_left_out(
    tmp_path: Path,
) -> None:
    rows = [
        {"iteration": 0, "valid/loss": 0.75, "held-out/loss": 0.625},
        {"iteration": 1, "accuracy": 0.5, "loss": 0.75},
        {"iteration": 1, "valid/loss": 0.625},
        {"iteration": 2, "loss": 0.5},
        {"iteration": 3, "loss": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    card = card_of(tmp_path / "iter_0000002", ObjectiveConfig())
    table = card.split("After step 2.")[1].strip().splitlines()[2:]
    assert table == [
        "| training loss | 0.5000 |",
        "| training accuracy, after step 1 | 0.5000 |",
        "| validation loss, after step 1 | 0.6250 |",
    ]


def test_card_of_rankings_counts_prompts(tmp_path: Path) -> None:
    data = {"prefix": "data/ranked", "num_rows": 7, "files": {"_packed_ranks_document.bin": "0"}}
    card = card_of(tmp_path / "ranked", ObjectiveConfig(), data=(data,))
    assert "| prompts per step | 2 |" in card
    assert "| data | ranked, 7 rows |" in card


def test_card_names_what_was_added_to_the_loss(tmp_path: Path) -> None:
    plain = card_of(tmp_path / "plain", ObjectiveConfig())
    assert "| loss | sigmoid |" in plain
    assert "| pairs per step | 2 |" in plain
    assert "weight |" not in plain.replace("| weight decay |", "")
    card = card_of(tmp_path / "terms", ObjectiveConfig(centering_weight=0.01, score_range=(-3.0, 3.0)))
    assert "| centering weight | 0.01 |" in card
    assert "| score range | (-3.0, 3.0) |" in card


def test_card_of_a_process_reward_model_counts_answers(tmp_path: Path) -> None:
    card = card_of(tmp_path / "steps", ObjectiveConfig(), TOKEN_CLASSIFIER)
    assert "| answers per step | 2 |" in card
    assert "| loss | cross-entropy of every step's label |" in card
    assert "pairs" not in card
    assert "A step is read at the last token of" in card


def card_of_adapters(contract: InferenceContract) -> str:
    lora = Lora(rank=4, alpha=8, targets=("self_attn.q_proj",))
    spec = read_checkpoint_info(CHECKPOINT).run.spec
    spec = dataclasses.replace(spec, lora=lora, num_outputs=max(len(contract.attributes), 1))
    return adapter_card(spec, contract, base="llama", caveat=None)


def test_card_of_adapters_says_what_a_score_is() -> None:
    normalization = Normalization(mean=-0.5, std=2.0, num_responses=24, data="held-out", kind="standard")
    contract = dataclasses.replace(read_contract(CHECKPOINT), normalization=normalization)
    card = card_of_adapters(contract)
    assert "A higher score is a better answer" in card
    assert "(score - -0.5) / 2 is normalized by 24 responses of held-out." in card
    assert "print(model(input_ids=ids).logits[0, 0].item())" in card


def test_card_of_adapters_of_attributes_reads_all_of_them() -> None:
    card = card_of_adapters(dataclasses.replace(read_contract(CHECKPOINT), attributes=("helpful", "long")))
    assert "They rate an answer's helpful, long, on the scale of their training data" in card
    assert "num_labels=2" in card
    assert "dict(zip(['helpful', 'long'], model(input_ids=ids).logits[0].tolist(), strict=True))" in card
    assert "better answer" not in card
