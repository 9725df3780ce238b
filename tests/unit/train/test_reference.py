"""By what a column of reference log-probabilities is known."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.adapters.lora import Lora
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.model.spec import ModelSpec
from modellink_rm.train.reference import column_identity
from tests.tiny_data import write_random_rows
from tests.unit.estimate.shapes import LLAMA_8B

READER = ExampleReader(seq_length=48, truncation="right", num_closing_tokens=1, num_ids=320)
SPEC = ModelSpec(shape=LLAMA_8B, padded_vocab_size=128_256)
LORA = Lora(rank=4, alpha=8.0, targets=("self_attn.q_proj",))


def identity(
    directory: Path,
    *,
    reader: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    settings: dict[str, Any] = {"dtype": torch.float32, "fingerprint": "abc"} | others
    return column_identity(
        open_dataset(directory / "pairs"),
        dataclasses.replace(READER, **reader or {}),
        dataclasses.replace(SPEC, **spec or {}),
        **settings,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"reader": {"seq_length": 47}},
        {"reader": {"truncation": "keep-ends"}},
        {"reader": {"num_closing_tokens": 2}},
        {"spec": {"logit_softcap": 30.0}},
        {"spec": {"lora": dataclasses.replace(LORA, quantization="nf4")}},
        {"dtype": torch.bfloat16},
        {"fingerprint": "abd"},
    ],
    ids=lambda change: " ".join(map(str, change.values())),
)
def test_what_changes_log_probabilities_makes_another_column(change: dict[str, Any], tmp_path: Path) -> None:
    write_random_rows(tmp_path / "pairs", 3)
    assert identity(tmp_path, **change) != identity(tmp_path)


def test_other_rows_make_another_column(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_random_rows(tmp_path / str(seed) / "pairs", 3, seed=seed)
    assert identity(tmp_path / "1") != identity(tmp_path / "2")


@pytest.mark.parametrize("spec", [{"padded_vocab_size": 128_512}, {"lora": LORA}])
def test_what_changes_no_log_probability_takes_the_column(spec: dict[str, Any], tmp_path: Path) -> None:
    """Padding of the vocabulary, which parallel sizes decide about, and adapters, which begin as none."""
    write_random_rows(tmp_path / "pairs", 3)
    assert identity(tmp_path, spec=spec) == identity(tmp_path)
