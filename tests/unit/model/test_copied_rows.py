"""Keys and values in the order of pieces, and the gradients of their copies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.model.attention.copied_rows import CopiedRows, rows_of_ranges

CPU = torch.device("cpu")


@given(st.lists(st.integers(0, 11), min_size=1, max_size=40))
def test_copies_and_their_gradients_are_those_of_indexing(index: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    key, value = (
        torch.randn(12, 2, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    gradient = torch.randn(len(index), 2, 3, generator=generator, dtype=torch.float64)
    rows = CopiedRows(np.array(index), CPU)
    for states, copies in zip((key, value), rows.take(key, value), strict=True):
        expected = states[torch.tensor(index)]
        assert torch.equal(copies, expected)
        found, whole = (
            torch.autograd.grad(output, states, gradient, retain_graph=True)[0]
            for output in (copies, expected)
        )
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)  # sums in another order


def test_every_copy_of_a_row_is_added_in_a_pass_of_its_own() -> None:
    index = rows_of_ranges([(0, 4), (0, 2), (4, 6), (0, 1)])
    passes = [rows.tolist() for rows, _ in CopiedRows(index, CPU).copies]
    assert passes == [[0, 1, 2, 3, 4, 5], [0, 1], [0]]


def test_rows_in_order_are_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("gathered")

    key, value = torch.ones(6, 1, 2), torch.ones(6, 2, 2)[:, :1]
    rows = CopiedRows(rows_of_ranges([(0, 4), (4, 6)]), CPU)
    monkeypatch.setattr(torch.Tensor, "index_select", refuse)
    found = rows.take(key, value)
    assert found[0] is key
    # Of its own memory: a view would keep what it is a view of.
    assert found[1].untyped_storage().nbytes() == value.numel() * value.element_size()
