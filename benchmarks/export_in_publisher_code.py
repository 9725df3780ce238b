"""InternLM2's own reward class opens an exported directory, and its scores are compared with ours.

    python benchmarks/export_in_publisher_code.py --code DIR --python VENV/bin/python --work DIR

The first DIR holds configuration_internlm2.py and modeling_internlm2.py as published, for example those of
InternLM/xtuner in tools/model_converters/modeling_internlm2_reward; VENV has the transformers that they were
written for (4.44). They run in a process of their own. The exit code is 1 if a score differs by more than
1e-4.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from modellink_rm import Scorer

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / "benchmarks" / "peers" / "publisher_scores.py"
TOLERANCE = 1e-4
CONVERSATIONS = (("the cat", "sings"), ("a river and a stone", "falls"), ("the bird", "sleeps and runs"))


def main(argv: Sequence[str]) -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--code", type=Path, required=True, help="directory of the publisher's python files")
    parser.add_argument("--python", required=True, help="of the environment that has transformers 4.44")
    parser.add_argument("--work", type=Path, required=True, help="directory to make, for all files")
    flags = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))  # for the tiny models of the tests
    from benchmarks.tiny_export import export, import_tiny_model

    flags.work.mkdir(parents=True)
    exported, ids, result = flags.work / "exported", flags.work / "ids.json", flags.work / "scores.json"
    checkpoint = import_tiny_model("internlm2", flags.work)
    export(checkpoint, exported)
    for path in flags.code.glob("*_internlm2.py"):
        shutil.copy(path, exported)
    _name_what_the_code_reads(exported / "config.json")
    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=False)
    rendered = [tokenizer.apply_chat_template(_messages(*pair), return_dict=True) for pair in CONVERSATIONS]
    ids.write_text(json.dumps([one["input_ids"] for one in rendered]))
    with Scorer.open(str(checkpoint)) as scorer:
        ours = scorer.score([{"prompt": prompt, "response": response} for prompt, response in CONVERSATIONS])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["--model", exported, "--ids", ids, "--output", result]
    subprocess.run([flags.python, str(RUNNER), *map(str, words)], check=True, env=kept)
    theirs = json.loads(result.read_text())
    worst = float(np.max(np.abs(np.subtract(ours, theirs))))
    print(f"ours {ours}, InternLM2ForRewardModel's {theirs}")
    print(f"largest difference: {worst:.2e} (allowed: {TOLERANCE:g})")
    return int(not worst <= TOLERANCE)


def _name_what_the_code_reads(config_file: Path) -> None:
    """Give config.json a field that later versions of the code read, as that of POLAR-7B has it."""
    config = {"pretraining_tp": 1, **json.loads(config_file.read_text())}
    config_file.write_text(json.dumps(config))


def _messages(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
