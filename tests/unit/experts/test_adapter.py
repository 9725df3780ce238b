"""Updates of experts' matrices: each expert's own, and parts of them that processes hold."""

import pytest
import torch

from modellink_rm.adapters.lora import Lora
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.experts.dispatch import ExpertProcesses

LORA = Lora(rank=3, alpha=6, targets=("mlp.experts.down_proj",))
NUM_EXPERTS, HIDDEN, WIDTH = 4, 8, 6


def adapter(
    shape: tuple[int, ...], *, divides_inputs: bool = False, ep: int = 1, etp: int = 1
) -> ExpertsAdapter:
    """That of the last process, of so many that divide the experts and their matrices."""
    where = ExpertProcesses(group=None, ep_size=ep, ep_rank=ep - 1, etp_size=etp, etp_rank=etp - 1)
    return ExpertsAdapter(
        LORA,
        shape,
        divides_inputs=divides_inputs,
        dtype=torch.float32,
        device=torch.device("cpu"),
        processes=where,
    )


def filled(one: ExpertsAdapter) -> ExpertsAdapter:
    one.initialize(1)
    with torch.no_grad():
        one.b.normal_(generator=torch.Generator().manual_seed(2))
    return one


def test_each_row_is_updated_by_the_matrices_of_its_expert() -> None:
    one = filled(adapter((NUM_EXPERTS, 2, WIDTH, HIDDEN)))
    counts = torch.tensor([2, 0, 3, 1])
    rows, output = torch.randn(6, HIDDEN), torch.randn(6, 2 * WIDTH)
    b = one.b.flatten(1, 2)[[0, 0, 2, 2, 2, 3]]
    expected = output + 2 * torch.einsum("mor,mri,mi->mo", b, one.a[[0, 0, 2, 2, 2, 3]], rows)
    torch.testing.assert_close(one(output, rows, counts), expected)


def test_a_starts_as_in_peft_and_the_update_at_0() -> None:
    one = adapter((NUM_EXPERTS, HIDDEN, WIDTH), divides_inputs=True)
    one.initialize(1)
    bound = WIDTH**-0.5
    assert bound * 0.8 < one.a.abs().max() <= bound
    assert not one.delta(0).any()


@pytest.mark.parametrize("divides_inputs", [False, True])
def test_processes_start_with_their_parts_of_the_same_matrices(divides_inputs: bool) -> None:
    shape = (NUM_EXPERTS, HIDDEN, WIDTH) if divides_inputs else (NUM_EXPERTS, 2, WIDTH, HIDDEN)
    part = (2, HIDDEN, WIDTH // 2) if divides_inputs else (2, 2, WIDTH // 2, HIDDEN)
    whole = adapter(shape, divides_inputs=divides_inputs)
    last = adapter(part, divides_inputs=divides_inputs, ep=2, etp=2)
    whole.initialize(7)
    last.initialize(7)
    columns = slice(WIDTH // 2, None) if divides_inputs else slice(None)
    assert torch.equal(last.a, whole.a[2:, :, columns])


def test_of_equal_copies_one_counts_in_the_gradient_norm() -> None:
    copy, part = adapter((2, HIDDEN, WIDTH), divides_inputs=True, etp=2), adapter((2, 2, WIDTH, HIDDEN))
    assert copy.b.shared  # type: ignore[attr-defined]
    assert not hasattr(copy.a, "shared")
    assert not part.a.shared  # type: ignore[attr-defined]
