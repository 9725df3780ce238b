"""Imports megatron-core without torch's compiler; import this file before anything that needs the engine.

megatron-core 0.16.1 passes functions to torch.compile while it is imported (core/jit.py: `jit_fuser`), which
imports the whole compiler: a third of the time in which a process starts. Here a function is compiled when
it is first called; those of the fusions that this package leaves off are never.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


def compiled_when_called(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    """As torch.compile, which itself is called at the first call of the function."""
    if function is None:
        return functools.partial(compiled_when_called, **options)

    @functools.cache
    def compiled() -> Callable[..., Any]:
        return torch.compile(function, **options)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return compiled()(*arguments, **named)

    return call


def _import_engine() -> None:
    real = torch.compile
    torch.compile = compiled_when_called  # type: ignore[assignment]
    try:
        import megatron.core  # noqa: F401
    finally:
        torch.compile = real


_import_engine()
