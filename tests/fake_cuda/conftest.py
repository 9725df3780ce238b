"""Steps on a fake GPU, measured in a process of their own."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.fake_cuda.case import Case, Measured
from tests.fake_cuda.library import build_library, compiler

SECONDS = 240


def measure(cases: Sequence[Case]) -> list[Measured]:
    """What each case's step asked of the device."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fake_cuda.child", str(build_library())],
        input=json.dumps([dataclasses.asdict(case) for case in cases]),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [_measured(fields) for fields in json.loads(done.stdout)]


def _measured(fields: dict[str, Any]) -> Measured:
    counters = {name: Counter(value) for name, value in fields.items() if isinstance(value, dict)}
    return Measured(**{**fields, **counters})


@pytest.fixture(scope="session", autouse=True)
def _needs_a_compiler_and_no_gpu() -> None:
    if torch.version.cuda is not None:
        pytest.skip("this torch is built with CUDA: a fake GPU cannot take the real one's place")
    if compiler() is None:
        pytest.skip("no C++ compiler (g++ or clang++) to build the fake GPU with")
