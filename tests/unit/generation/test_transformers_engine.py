"""Batches of prompts of different lengths against transformers on one prompt at a time."""

import json
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from modellink_rm.base.errors import UserError
from modellink_rm.config.generate import SamplingConfig
from modellink_rm.generation.engine import Request
from modellink_rm.generation.transformers_engine import DrawnToken, TransformersEngine
from tests.tiny_models import write_tiny_llama

END = 2
PROMPTS = [list(range(3, 3 + length)) for length in (1, 9, 4, 17, 2, 9)]


def requests(*, answers: int = 1, seed: int = 0) -> list[Request]:
    return [
        Request(array("i", ids), (seed, number, answer))
        for number, ids in enumerate(PROMPTS)
        for answer in range(answers)
    ]


def engine(policy: Path, sampling: SamplingConfig, *, batch_size: int = 4) -> TransformersEngine:
    return TransformersEngine(policy, sampling, end_ids=[END], batch_size=batch_size, trust_remote_code=False)


def until_end(ids: list[int] | None) -> list[int]:
    assert ids is not None
    return ids[: ids.index(END)] if END in ids else ids


def test_greedy_tokens_of_a_padded_batch_are_those_of_transformers_on_one_prompt_at_a_time(
    policy: Path,
) -> None:
    made = engine(policy, SamplingConfig(temperature=0, max_new_tokens=12)).token_ids(requests())
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    alone = [
        model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=END
        )[0, len(ids) :].tolist()
        for ids in PROMPTS
    ]
    assert list(map(until_end, made)) == list(map(until_end, alone))
    assert len(set(map(tuple, alone))) > 4


def test_a_sampled_answer_depends_on_its_own_numbers_and_not_on_its_batch(policy: Path) -> None:
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, top_k=50, max_new_tokens=6, num_answers=2)
    one = engine(policy, sampling, batch_size=1).token_ids(requests(answers=2))
    many = engine(policy, sampling, batch_size=12).token_ids(requests(answers=2))
    assert list(map(until_end, one)) == list(map(until_end, many))
    assert len({tuple(ids or ()) for ids in one}) == 12
    other = engine(policy, sampling, batch_size=12).token_ids(requests(answers=2, seed=1))
    assert other != many


def test_drawn_tokens_have_the_probabilities_of_the_logits() -> None:
    num_rows = 4000
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0, -torch.inf]]).repeat(num_rows, 1)
    numbers = torch.from_numpy(np.random.default_rng(5).random((num_rows, 1)))
    drawn = DrawnToken(numbers)(torch.zeros(num_rows, 1), logits).argmax(dim=-1)
    share = torch.bincount(drawn, minlength=5) / num_rows
    # Four standard deviations of a share of 4,000 draws are at most 0.032.
    torch.testing.assert_close(share, logits[0].softmax(dim=-1), atol=0.032, rtol=0)
    assert share[1] == share[4] == 0


def test_the_smallest_number_draws_no_token_that_is_left_out() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0]])
    assert DrawnToken(torch.zeros(1, 1, dtype=torch.float64))(torch.zeros(1, 1), logits).argmax() == 1


def test_settings_of_the_directory_beside_its_ends_do_not_change_tokens(policy: Path, tmp_path: Path) -> None:
    for file in policy.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 0.1, "min_new_tokens": 20}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    sampling = SamplingConfig(temperature=0, max_new_tokens=8)
    assert engine(tmp_path, sampling).token_ids(requests()) == engine(policy, sampling).token_ids(requests())


def test_a_model_without_its_language_model_head_is_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, num_hidden_layers=1, kind="score")
    with pytest.raises(UserError, match=r"--load .* lacks lm_head.weight: .* a reward model has none"):
        engine(tmp_path, SamplingConfig())
