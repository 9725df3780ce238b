"""The engine is imported without torch's compiler, which works all the same when it is called for."""

import subprocess
import sys

import pytest
import torch

from modellink_rm.base.engine_import import compiled_when_called


@pytest.mark.full
@pytest.mark.parametrize("module", ["modellink_rm.train.run", "modellink_rm.inference.scorer"])
def test_a_command_starts_without_the_compiler(module: str) -> None:
    code = f"import sys, {module}; print('torch._inductor.compile_fx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_function_is_compiled_at_its_first_call_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_it(function: object, **options: object) -> object:
        calls.append(options)
        return lambda number: 10 * number

    monkeypatch.setattr(torch, "compile", compile_it)

    @compiled_when_called(dynamic=True)
    def triple(number: int) -> int:
        return 3 * number

    assert calls == []
    assert [triple(1), triple(2)] == [10, 20]
    assert calls == [{"dynamic": True}]
    assert triple.__name__ == "triple"
