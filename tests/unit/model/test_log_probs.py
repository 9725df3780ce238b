"""Log-probabilities of tokens in chunks, against torch's log_softmax of all logits."""

import pytest
import torch
from torch import Tensor

from modellink_rm.model.heads import log_probs
from modellink_rm.model.heads.log_probs import Vocabulary, token_log_probs, token_log_probs_and_entropies
from tests.distributed import Workers

NUM_IDS, NUM_ROWS, HIDDEN, NUM_TOKENS = 37, 48, 8, 23  # 11 rows pad the vocabulary


class Alone:
    """A group of one process."""

    def size(self) -> int:
        return 1


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, tokens and the gradient of their log-probabilities."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(NUM_TOKENS, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(NUM_ROWS, HIDDEN, generator=generator).requires_grad_()
    token_ids = torch.randint(NUM_IDS, (NUM_TOKENS,), generator=generator)
    return rows, weight, token_ids, torch.randn(NUM_TOKENS, generator=generator)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens_of_a_chunk", [1, 5, NUM_TOKENS])
def test_chunks_give_the_values_and_gradients_of_all_logits(
    softcap: float | None, tokens_of_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs, "_LOGITS_OF_A_CHUNK", tokens_of_a_chunk * NUM_IDS)
    rows, weight, token_ids, gradient = inputs()
    vocabulary = Vocabulary(start=0, num_ids=NUM_IDS, group=Alone(), softcap=softcap)
    found = token_log_probs(rows, weight, token_ids, vocabulary)
    of_found = torch.autograd.grad(found, (rows, weight), gradient)
    logits = rows @ weight[:NUM_IDS].t()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = logits.log_softmax(-1).gather(1, token_ids[:, None])[:, 0]
    of_expected = torch.autograd.grad(expected, (rows, weight), gradient)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(of_found, of_expected)
    assert not of_found[1][NUM_IDS:].any()  # rows that pad the vocabulary


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens_of_a_chunk", [5, NUM_TOKENS])
def test_entropies_are_those_of_the_distributions(
    softcap: float | None, tokens_of_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_probs, "_LOGITS_OF_A_CHUNK", tokens_of_a_chunk * NUM_IDS)
    rows, weight, token_ids, _ = inputs()
    vocabulary = Vocabulary(start=0, num_ids=NUM_IDS, group=Alone(), softcap=softcap)
    found = token_log_probs_and_entropies(rows, weight, token_ids, vocabulary)
    logits = rows @ weight[:NUM_IDS].t()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    torch.testing.assert_close(found[:, 0], token_log_probs(rows, weight, token_ids, vocabulary))
    torch.testing.assert_close(found[:, 1], torch.distributions.Categorical(logits=logits).entropy())
    assert not found.requires_grad


def entropies_on_rank(starts: list[int], num_rows: int) -> list[list[float]]:
    rows, weight, token_ids, _ = inputs()
    start = starts[torch.distributed.get_rank()]
    num_ids = min(max(NUM_IDS - start, 0), num_rows)
    vocabulary = Vocabulary(start=start, num_ids=num_ids, group=torch.distributed.group.WORLD)
    found: list[list[float]] = token_log_probs_and_entropies(
        100 * rows, weight[start : start + num_rows], token_ids, vocabulary
    ).tolist()
    return found


def in_a_group(starts: list[int], num_rows: int) -> list[list[float]]:
    torch.distributed.init_process_group("gloo")
    try:
        return entropies_on_rank(starts, num_rows)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("starts", "num_rows"),
    [([0, 24], 24), pytest.param([0, NUM_IDS], NUM_IDS, id="a rank without tokens")],
)
def test_entropies_of_a_divided_vocabulary_are_those_of_the_whole(
    starts: list[int], num_rows: int, workers: Workers
) -> None:
    # Of logits of hundreds, where one rank has all of the probability.
    ranks = workers.run(in_a_group, 2, starts, num_rows)
    rows, weight, _, _ = inputs()
    logits = 100 * rows @ weight[:NUM_IDS].t()
    expected = torch.distributions.Categorical(logits=logits).entropy().tolist()
    assert ranks[0] == ranks[1]
    assert [entropy for _, entropy in ranks[0]] == pytest.approx(expected, abs=1e-4)


def test_gradient_of_the_weight_goes_to_its_buffer() -> None:
    rows, weight, token_ids, gradient = inputs()
    vocabulary = Vocabulary(start=0, num_ids=NUM_IDS, group=Alone())
    (expected,) = torch.autograd.grad(
        token_log_probs(rows, weight, token_ids, vocabulary), (weight,), gradient
    )
    weight.main_grad = torch.ones_like(weight)  # type: ignore[attr-defined]
    token_log_probs(rows, weight, token_ids, vocabulary).backward(gradient)
    torch.testing.assert_close(weight.main_grad, 1 + expected)  # type: ignore[attr-defined]
    assert weight.grad_added_to_main_grad  # type: ignore[attr-defined]


def test_frozen_weight_gets_no_gradient() -> None:
    rows, weight, token_ids, gradient = inputs()
    weight.requires_grad_(False)
    vocabulary = Vocabulary(start=0, num_ids=NUM_IDS, group=Alone())
    token_log_probs(rows, weight, token_ids, vocabulary).backward(gradient)
    assert rows.grad is not None
    assert weight.grad is None


def test_no_token_keeps_the_rows_in_the_graph() -> None:
    rows, weight, token_ids, _ = inputs()
    vocabulary = Vocabulary(start=0, num_ids=NUM_IDS, group=Alone())
    found = token_log_probs(rows[:0], weight, token_ids[:0], vocabulary)
    found.sum().backward()
    assert rows.grad is not None
    assert not rows.grad.any()
