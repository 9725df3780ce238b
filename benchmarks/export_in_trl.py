"""TRL goes on from an exported directory with the loss that this package computes, and its model comes back.

    python benchmarks/export_in_trl.py CHECKPOINT --python VENV/bin/python --work DIR
    python benchmarks/export_in_trl.py --family mixtral --python VENV/bin/python --work DIR

With --family the checkpoint is of a tiny model of tests/parity/family_cases.py. Exports the checkpoint, has
TRL's RewardTrainer take a step from it and compares that step's loss with ours; then scores with the
directory that TRL saved and compares with TRL's scores. The exit code is 1 if a number differs by more than
1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import tensor
from torch.nn.functional import logsigmoid

from modellink_rm import Scorer

TOLERANCE = 1e-4
PAIRS = (
    ("the cat", "sings", "falls and falls"),
    ("a river and a stone", "the moon shines", "the dog"),
    ("the bird sings", "a tree", "the sun shines and the dog sleeps"),
)
RUNNER = Path(__file__).parent / "peers" / "trl_continues.py"


def main(argv: Sequence[str]) -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--family", help="instead of a checkpoint: that of a tiny model of that family")
    parser.add_argument("--python", required=True, help="of the environment that has trl")
    parser.add_argument("--work", type=Path, required=True, help="directory to make, for all files")
    flags = parser.parse_args(argv)
    if (flags.checkpoint is None) == (flags.family is None):
        parser.error("give a checkpoint or --family")
    flags.work.mkdir(parents=True)
    exported, saved, result = flags.work / "exported", flags.work / "saved", flags.work / "result.json"
    sys.path.insert(0, str(RUNNER.parents[2]))  # for the tiny models of the tests
    from benchmarks.tiny_export import export, import_tiny_model

    checkpoint = flags.checkpoint or import_tiny_model(flags.family, flags.work)
    export(checkpoint, exported)
    ours = _scores(str(checkpoint))
    our_loss = -sum(logsigmoid(tensor(chosen - rejected)).item() for chosen, rejected in ours) / len(ours)
    pairs = flags.work / "pairs.json"
    pairs.write_text(json.dumps([_messages(*pair) for pair in PAIRS]))
    words = ["--model", exported, "--pairs", pairs, "--save", saved, "--output", result]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([flags.python, str(RUNNER), *map(str, words)], check=True, env=kept)
    theirs = json.loads(result.read_text())
    back = [chosen for chosen, _ in _scores(str(saved), prompt_type="hf")]
    differences = [abs(one - two) for one, two in zip(back, theirs["scores"], strict=True)]
    print(f"loss of the step: ours {our_loss:.8f}, TRL's {theirs['loss']:.8f}")
    print(f"scores by the model that TRL saved: largest difference {max(differences):.2e}")
    return int(max(*differences, abs(our_loss - theirs["loss"])) > TOLERANCE)


def _messages(prompt: str, chosen: str, rejected: str) -> dict[str, list[dict[str, str]]]:
    user = {"role": "user", "content": prompt}
    return {
        name: [user, {"role": "assistant", "content": text}]
        for name, text in (("chosen", chosen), ("rejected", rejected))
    }


def _scores(load: str, **options: str) -> list[tuple[float, float]]:
    """Scores of each pair, by this package."""
    records = [{"prompt": prompt, "responses": answers} for prompt, *answers in PAIRS]
    with Scorer.open(load, **options) as scorer:
        return [(chosen, rejected) for chosen, rejected in scorer.score(records)]  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
