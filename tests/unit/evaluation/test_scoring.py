"""What evaluation makes of scorers that go wrong; the scorers are functions of the texts."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Conversation
from modellink_rm.evaluation.inputs import named_inputs
from modellink_rm.evaluation.read_benchmarks import read_benchmarks
from modellink_rm.evaluation.score_benchmarks import score_benchmark
from modellink_rm.evaluation.score_sets import score_set
from modellink_rm.handlers import conversation_of, make_handler
from modellink_rm.inference.record_tokenizer import PlacedConversation
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.records import BadRecord, Record

HANDLER = make_handler("OpenAiMessagesPairwiseHandler", None)


class TextScorer:
    """Scores responses by a function of the conversation."""

    def __init__(self, scores: Callable[[Conversation], list[float]]) -> None:
        self._scores = scores

    def results(self, items: Sequence[Record | BadRecord | PlacedConversation]) -> list[Scored | NotScored]:
        return [self._result(item) for item in items]

    def _result(self, item: Record | BadRecord | PlacedConversation) -> Scored | NotScored:
        assert not isinstance(item, BadRecord)
        conversation = (
            conversation_of(HANDLER, item.fields) if isinstance(item, Record) else item.conversation
        )
        scores = tuple(self._scores(conversation))
        if all(map(math.isfinite, scores)):
            return Scored(conversation, scores, is_truncated=len(conversation.prompt[0].content) > 3)
        return NotScored(NOT_FINITE, f"{item.place}: {NOT_FINITE}")


def length(conversation: Conversation) -> list[float]:
    return [float(len(response.content)) for response in conversation.responses]


def pairs_file(path: Path, lengths: list[tuple[int, int]]) -> Path:
    records = [{"prompt": "q", "chosen": "x" * one, "rejected": "x" * other} for one, other in lengths]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def test_a_scorer_of_the_response_alone_passes_the_swap_check(tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "x.jsonl", [(3, 1), (2, 2), (5, 1)])
    (named,) = named_inputs("--data", [f"a={path}"])
    done = []
    scored = score_set(TextScorer(length), named, took=lambda *counts: done.append(counts))
    assert done == [(3, path.stat().st_size)]
    assert len(scored.pairs) == 3
    assert scored.pairs.credits.tolist() == scored.pairs.length_credits.tolist() == [1.0, 0.5, 1.0]
    assert scored.swap.accuracy == pytest.approx(2.5 / 3)
    assert scored.swap.swapped_accuracy == pytest.approx(0.5 / 3)
    assert scored.swap.largest_difference == 0.0


def test_a_scorer_that_prefers_the_first_response_is_found(tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "x.jsonl", [(3, 1), (2, 4)])
    (named,) = named_inputs("--data", [f"a={path}"])
    swap = score_set(TextScorer(lambda conversation: [1.0, 0.0]), named).swap
    assert (swap.accuracy, swap.swapped_accuracy, swap.largest_difference) == (1.0, 1.0, 1.0)


def test_only_the_first_pairs_are_swapped_and_all_are_counted(tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "x.jsonl", [(2, 1)] * 600)
    (named,) = named_inputs("--data", [f"a={path}"])
    scored = score_set(TextScorer(length), named)
    assert (len(scored.pairs), scored.swap.num_pairs) == (600, 256)
    assert scored.pairs.numbers.tolist() == list(range(600))


@pytest.mark.parametrize("num_rows", [1, 600])
def test_a_row_of_a_benchmark_without_a_finite_score_is_an_error(num_rows: int, tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "", "subset": "hep-js"}
    last = {**row, "prompt": "odd"}
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, [row] * (num_rows - 1) + [last])))
    (rows,) = read_benchmarks(named_inputs("--benchmark", [f"rewardbench={tmp_path}/x.jsonl"]))

    def scores(conversation: Conversation) -> list[float]:
        return [math.nan, 0.0] if conversation.prompt[0].content == "odd" else [1.0, 0.0]

    with pytest.raises(UserError, match=f"x.jsonl:{num_rows}: a score is not finite; rewardbench needs"):
        score_benchmark(TextScorer(scores), rows)


def test_truncated_rows_of_a_benchmark_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "chosen": "aa", "rejected": "b", "subset": "hep-js"} for prompt in ("q", "long")
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (read,) = read_benchmarks(named_inputs("--benchmark", [f"rewardbench={tmp_path}/x.jsonl"]))
    scored = score_benchmark(TextScorer(length), read)
    assert scored.num_truncated == 1
    assert scored.score.credits.tolist() == [1.0, 1.0]
