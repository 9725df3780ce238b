"""What the page calls the runs that it shows, by their --stage."""

from collections.abc import Sequence

from modellink_rm.report.run_files import RunFiles

# By the stage: what was trained, and what its scores are.
_KINDS = {
    "rm": (
        "Reward model",
        "Scores of preference pairs: a pair is right where the chosen response scores above the rejected "
        "one; a tie counts half. Margin is the distance of both scores.",
    ),
    "prm": (
        "Process reward model",
        "Scores of the steps of responses: one is right where it is above 0 for a right step, below 0 for a "
        "wrong one.",
    ),
    "dpo": (
        "Policy",
        "Implicit rewards of preference pairs: a pair is right where the chosen response has a higher reward "
        "than the rejected one; a tie counts half. Margin is the distance of both rewards, which stand as "
        "scores below.",
    ),
}


def kind_of(runs: Sequence[RunFiles]) -> tuple[str, str]:
    """What the runs train, and what their scores are; of runs of several stages, the words for pairs."""
    stages = {str(run.about.get("flags", {}).get("stage")) for run in runs}
    return _KINDS.get(stages.pop() if len(stages) == 1 else "rm", _KINDS["rm"])
