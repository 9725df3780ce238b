"""Peak memory of a run does not follow its input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.conftest import train_sentencepiece

CODE = """
import resource, sys
from modellink_rm.commands.preprocess import main
assert main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_six_times_the_input_takes_no_more_memory(tmp_path):
    model = tmp_path / "tokenizer.model"
    model.write_bytes(train_sentencepiece(normalization_rule_name="identity", remove_extra_whitespaces=False))
    peaks = []
    for copies in (1000, 6000):
        path = tmp_path / f"{copies}.jsonl"
        with path.open("w") as file:
            for index in range(copies):
                answer = "the capital of France is Paris " * 150
                record = {"instruction": f"q {index}", "chosen": answer, "rejected": answer + "no"}
                file.write(json.dumps(record) + "\n")
        words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--prompt-type", "llama2"]
        words += [
            "--handler-name",
            "AlpacaStylePairwiseHandler",
            "--tokenizer-model",
            str(model),
        ]
        result = subprocess.run(
            [sys.executable, "-c", CODE, *words],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout.splitlines()[-1]))
    # MB; the 47 MB more of input would show, and the table of digests takes up to 20 of these
    assert peaks[1] - peaks[0] < 25
