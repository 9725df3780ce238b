"""What a micro-batch's tokens count in the losses of routers."""

import numpy as np
import torch

from modellink_rm.batching.batch import pack_examples
from modellink_rm.dataset.example import Example, Response
from modellink_rm.experts.balance import RoutedRows, RouterTally, routed_rows, with_sums, without_sums
from modellink_rm.experts.shape import Experts

EXPERTS = Experts(number=3, ffn_hidden_size=2, top_k=1, normalizes_weights=True, aux_loss_coef=1.0)


def example(num_prompt_tokens: int, *answers: tuple[int, ...]) -> Example:
    prompt = np.arange(num_prompt_tokens, dtype=np.int32)
    responses = [np.concatenate([prompt, np.array(answer, dtype=np.int32)]) for answer in answers]
    return Example(0, tuple(Response(ids, num_prompt_tokens) for ids in responses))


def test_shared_prompt_counts_for_each_response_and_padding_not_at_all() -> None:
    batch = pack_examples([example(2, (7,), (8, 9)), example(1, (5, 6), (5, 6))], divisible_by=12)
    rows = routed_rows(batch)
    # Prompt, answer, answer; prompt, and two equal answers that are stored once; padding.
    assert rows.examples.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert rows.weights.tolist() == [2, 2, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0]


def test_context_parallel_processes_count_their_own_tokens() -> None:
    batch = pack_examples([example(3, (7,), (8, 9, 4))], divisible_by=4)
    parts = [routed_rows(batch.share(rank=rank, size=2)) for rank in range(2)]
    assert sum(float(part.weights.sum()) for part in parts) == batch.num_tokens


def tally_of(num_layers: int) -> tuple[RouterTally, RoutedRows]:
    batch = pack_examples([example(1, (7,), (8,))])
    rows = routed_rows(batch)
    return RouterTally(EXPERTS, batch, rows, num_layers=num_layers), rows


def record(tally: RouterTally, rows: RoutedRows, layer: int, chosen: list[int]) -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.0, 0.5, 0.5]])
    tally.record(
        layer,
        rows,
        probabilities=probabilities,
        chosen=torch.tensor(chosen)[:, None],
        squares=torch.tensor([1.0, 2.0, 3.0]),
    )


def test_losses_are_those_counted_by_hand() -> None:
    tally, rows = tally_of(num_layers=1)
    record(tally, rows, 0, [0, 1, 1])
    # Two responses of two tokens, the prompt's counted twice: choices 2, 2, 0 of 4; probabilities
    # 2 * 0.5 + 0.2, 2 * 0.25 + 0.7 + 0.5, 2 * 0.25 + 0.1 + 0.5.
    expected = 3 * (2 / 4 * 1.2 / 4 + 2 / 4 * 1.7 / 4)
    torch.testing.assert_close(
        tally.finish([]), torch.tensor([expected, (2 * 1 + 2 + 3) / 4], dtype=torch.float64)
    )
    assert tally.loads[0].tolist() == [1, 2, 0]


def test_recomputed_layer_is_counted_once() -> None:
    tally, rows = tally_of(num_layers=1)
    record(tally, rows, 0, [0, 1, 1])
    before = tally.sums
    record(tally, rows, 0, [0, 1, 1])
    assert torch.equal(tally.sums, before)


def test_sums_travel_between_stages_exactly_in_bfloat16() -> None:
    first, rows = tally_of(num_layers=2)
    record(first, rows, 0, [0, 1, 1])
    second, rows = tally_of(num_layers=2)
    states = torch.randn(5, 1, 8).to(torch.bfloat16).requires_grad_()
    sent = with_sums(states, first)
    received = sent.detach().requires_grad_()
    hidden_states = without_sums(received, second)
    assert torch.equal(hidden_states, states)
    assert torch.equal(second.sums, first.sums)
    record(second, rows, 1, [2, 2, 2])
    second.finish([])
    assert second.choices is not None
    gradient = torch.randn(5, 1, 8).to(torch.bfloat16)
    hidden_states.backward(gradient)
    sent.backward(received.grad)
    assert states.grad is not None
    assert torch.equal(states.grad, gradient)
    assert first.choices is not None
    assert first.choices.tolist() == second.choices.tolist() == [[2, 2, 4], [0, 0, 0]]
