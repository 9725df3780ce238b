"""The loss function of a step, and what it keeps of a micro-batch."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.dataset.example import Example, Response, RowName
from modellink_rm.objective.choice import choose_objective
from modellink_rm.parallel.groups import Ranks
from modellink_rm.train import step
from modellink_rm.train.step import StepLoss, _rows, non_finite_message
from modellink_rm.train.sums import no_sums, summary_of

OBJECTIVE = choose_objective("sigmoid")
LOSS = StepLoss(objective=OBJECTIVE)


def batch_of(num_pairs: int) -> Batch:
    response = Response(np.array([1, 2, 3], dtype=np.int32), 1)
    examples = [
        Example(10 + number, (response, response), ranks=(1, 2), dataset="a") for number in range(num_pairs)
    ]
    return pack_examples(examples)


def test_loss_function_returns_the_sum_and_the_number_and_names_of_pairs() -> None:
    scores = torch.tensor([1.0, 0.5, 2.0, 2.0, -1.0, 3.0], requires_grad=True)
    loss, count, kept = LOSS(scores, batch_of(3))
    margins = [0.5, 0.0, -4.0]
    assert loss.item() == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins), rel=1e-6)
    assert (count.item(), count.dtype) == (3, torch.int32)
    assert kept["names"] == (("a", 10), ("a", 11), ("a", 12))
    sums = kept["sums"]
    summary = summary_of(dict(zip(sums.names, sums.values.tolist(), strict=True)), OBJECTIVE)
    assert summary.metrics["loss"] == pytest.approx(loss.item() / 3)
    assert summary.metrics["ties"] == 1
    assert (summary.num_examples, summary.num_tokens, summary.num_computed_tokens) == (3, 18, 9)
    assert summary.flops == 0
    assert dict(zip(sums.names, sums.plus("flops", 7).values.tolist(), strict=True))["flops"] == 7


def test_truncated_examples_are_counted() -> None:
    response = Response(np.array([1, 2, 3], dtype=np.int32), 1)
    cut = [True, False, True]
    examples = [
        Example(row, (response, response), ranks=(1, 2), is_truncated=is_cut)
        for row, is_cut in enumerate(cut)
    ]
    sums = LOSS(torch.zeros(6), pack_examples(examples))[2]["sums"]
    total = (sums + LOSS(torch.zeros(2), pack_examples(examples[:1]))[2]["sums"]).values.tolist()
    summary = summary_of(dict(zip(sums.names, total, strict=True)), OBJECTIVE)
    assert (summary.num_examples, summary.num_truncated) == (4, 3)


def test_second_context_parallel_rank_counts_no_example() -> None:
    loss = StepLoss(objective=OBJECTIVE, counts_examples=False)
    assert loss(torch.ones(4), batch_of(2))[1].item() == 0


def test_sums_over_micro_batches_are_those_of_the_whole() -> None:
    scores = torch.randn(10, generator=torch.Generator().manual_seed(1))
    whole = LOSS(scores, batch_of(5))[2]["sums"]
    parts = LOSS(scores[:4], batch_of(2))[2]["sums"] + LOSS(scores[4:], batch_of(3))[2]["sums"]
    assert parts.names == whole.names
    torch.testing.assert_close(parts.values, whole.values)


def test_process_without_scores_adds_zeros_under_the_same_names() -> None:
    sums = LOSS(torch.ones(2), batch_of(1))[2]["sums"]
    nothing = no_sums(OBJECTIVE, torch.device("cpu"))
    assert nothing.names == sums.names
    assert torch.equal((nothing + sums).values, sums.values)


def test_loss_that_is_not_finite_makes_every_gradient_nan() -> None:
    head = torch.tensor([2.0], requires_grad=True)
    scores = torch.stack([head[0] * 0, head[0] + torch.inf])
    loss, _, _ = LOSS(scores, batch_of(1))
    loss.backward()
    assert math.isnan(head.grad.item())


def test_padding_only_micro_batch_has_no_loss_no_gradient_and_no_sums() -> None:
    head = torch.tensor([2.0], requires_grad=True)
    loss, count, kept = LOSS(head * torch.ones(0), batch_of(0))
    loss.backward()
    assert (loss.item(), count.item(), head.grad.item()) == (0.0, 0, 0.0)
    sums = dict(zip(kept["sums"].names, kept["sums"].values.tolist(), strict=True))
    assert {name: value for name, value in sums.items() if value} == {"padding": 1.0}


def test_rows_are_named_by_their_data_sets() -> None:
    names = [RowName("b", 2), RowName("a", 5), RowName("a", 3), RowName("a", 5)]
    assert _rows(names) == "rows 3, 5 of a and rows 2 of b"


def test_norm_that_is_beyond_float32_names_no_rank_and_no_parameter() -> None:
    batch = [RowName("data/pairs", row) for row in (3, 1)]
    assert non_finite_message(7, [([], []), ([], [])], batch) == (
        "iteration 7: the norm of a finite gradient is not finite while every loss is (rows 1, 3 of "
        "data/pairs); no weight was updated"
    )
    assert non_finite_message(7, [([], []), ([], ["head.weight"])], batch) == (
        "iteration 7: the gradient is not finite while every loss is (rank 1; first parameter head.weight; "
        "rows 1, 3 of data/pairs); no weight was updated"
    )


def test_rows_of_every_process_are_named_where_no_loss_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage of a pipeline keeps no rows, and a replica only its own."""
    ranks = Ranks(world_size=3, rank=0, tp_size=1, tp_rank=0, pp_size=1, pp_rank=0, dp_size=3, dp_rank=0)
    chunk = SimpleNamespace(module=SimpleNamespace(global_parameters=lambda: iter(())))
    state: Any = SimpleNamespace(model=[chunk], iteration=6)
    others = [([], ["head.weight"], [RowName("data/pairs", 4)]), ([], [], [RowName("data/pairs", 2)])]

    def gathered(found: list[Any], own: Any) -> None:
        found[:] = [own, *others]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    assert step._describe_non_finite(state, [], ranks) == (
        "iteration 7: the gradient is not finite while every loss is (rank 1; first parameter head.weight; "
        "rows 2, 4 of data/pairs); no weight was updated"
    )
