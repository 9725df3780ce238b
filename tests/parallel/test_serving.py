"""Several processes behind one server: the first takes the requests, the others follow it."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.marks import full

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "checkpoint_v1" / "iter_0000002"
RECORDS: list[dict[str, Any]] = [
    {"prompt": f"the cat {number}", "responses": ["sings", "the moon falls", "sleeps"][: number + 1]}
    for number in range(3)
]


def scores_of_a_server(records: list[dict[str, Any]], options: dict[str, Any]) -> list[list[float]]:
    """The scores of the records as the engine gives them, on the first process; elsewhere none."""
    from modellink_rm import Scorer
    from modellink_rm.conversation import Conversation
    from modellink_rm.handlers import conversation_of, make_handler
    from modellink_rm.serving.engine import Engine, follow
    from modellink_rm.serving.job import Job
    from modellink_rm.serving.metrics import ServerMetrics
    from modellink_rm.serving.waiting import Waiting

    def read(record: dict[str, Any]) -> Conversation:
        return conversation_of(make_handler("PromptResponseHandler", None), record)

    delivered: list[Job] = []
    with Scorer.open(CHECKPOINT, **options) as scorer:
        if scorer.model.ranks.rank > 0:
            follow(scorer)
            return []
        waiting = Waiting(100)
        engine = Engine(scorer, waiting, ServerMetrics(lambda: 0))
        jobs = [
            Job([one.input_ids for one in scorer.encode(read(record)).responses], delivered.append)
            for record in records
        ]
        for job in jobs:
            waiting.add(job)
        engine.stop()
        engine.run()
    assert len(delivered) == len(jobs)
    return [[score for (score,) in job.scores] for job in jobs]


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_model_parallel_size": 2},
        full({"pipeline_model_parallel_size": 2}),
        full({"context_parallel_size": 2}),
        full({}),
    ],
    ids=["tp2", "pp2", "cp2", "dp2"],
)
def test_two_processes_behind_a_server_score_as_one(workers: Workers, options: dict[str, Any]) -> None:
    (expected,) = workers.run(scores_of_a_server, 1, RECORDS, {})
    found, nothing = workers.run(scores_of_a_server, 2, RECORDS, options)
    assert nothing == []
    for scores, one in zip(found, expected, strict=True):
        assert scores == pytest.approx(one, abs=1e-5)  # sums over two processes round otherwise
