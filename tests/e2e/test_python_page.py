"""docs/python.md: its examples run as they are printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_data import random_pairs, write_tokenizer
from tests.tiny_models import write_tiny_llama

ROOT = Path(__file__).parents[2]
NAMES = {"Scorer", "preprocess_data", "train_model"}


@pytest.mark.full
def test_examples_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "llama-2-7b-hf")
    write_tokenizer(tmp_path / "llama-2-7b-hf")
    (tmp_path / "pairs.json").write_text(json.dumps(random_pairs(40), ensure_ascii=False))
    page = (ROOT / "docs" / "python.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"\w+", "".join(examples))) >= NAMES
    printed = []
    for number, example in enumerate(examples):
        script = tmp_path / f"example_{number}.py"
        script.write_text(example)
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "40 of 40 records" in printed[0]
    assert "checkpoints/llama2/iter_0000002" in printed[0]
    one, several, pair = json.loads(printed[1].splitlines()[-1])
    assert isinstance(one, float)
    assert (len(several), len(pair)) == (3, 2)


def test_importing_the_package_needs_no_torch() -> None:
    code = (
        "import sys, modellink_rm; assert 'torch' not in sys.modules\n"
        "from modellink_rm import preprocess_data; assert 'torch' not in sys.modules\n"
        "assert not hasattr(modellink_rm, 'Trainer')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
