"""What `evaluate` prints."""

from pathlib import Path

from modellink_rm.evaluation.inputs import named_inputs
from modellink_rm.evaluation.results import EvaluationResults, ModelResult
from modellink_rm.evaluation.score_sets import score_set
from modellink_rm.evaluation.sets import set_result
from modellink_rm.evaluation.table import aligned, lines_of
from tests.unit.evaluation.test_scoring import TextScorer, length, pairs_file


def test_a_set_fits_80_columns_and_names_its_ties(tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "x.jsonl", [(20 + n % 7, 20 + n % 5) for n in range(1200)])
    (named,) = named_inputs("--data", [f"held-out={path}"])
    scored = score_set(TextScorer(length), named)
    result = set_result("held-out", str(path), scored.pairs, scored.records, scored.swap, seed=1)
    model = ModelResult(load="checkpoints/llama2", sets=(result,), benchmarks=())
    lines = lines_of(EvaluationResults(seed=1, models=(model,), comparisons=(), overlaps=()))
    assert max(map(len, lines)) <= 80
    assert "held-out, by length" in lines
    assert lines[-1] == f"held-out: records 1,200 | truncated 0 | not scored 0 | ties {result.ties}"
    assert result.ties > 100


def test_a_source_gives_a_terminal_no_commands() -> None:
    lines = aligned(["source", "pairs"], [["web\x1b[2J\n", "3"]])
    assert lines == ["source      pairs", "web\\x1b[2J      3"]
