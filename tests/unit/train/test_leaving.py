"""When a run is to be left."""

import time

from modellink_rm.config.training import TrainingConfig
from modellink_rm.train.leaving import Leaving


def test_minutes_count_from_the_start_of_the_command() -> None:
    config = TrainingConfig(stage="rm", is_pairwise_dataset=True, train_iters=9, exit_duration_in_mins=2)
    now = time.monotonic()
    for seconds, reason in ((110, None), (121, "2 minutes")):
        with Leaving(config, world_size=1, started=now - seconds) as leaving:
            assert leaving.after_step(1) == reason
