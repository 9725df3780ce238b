"""The choice of kernels: tried with heads like the model's, equal on every process, with a reason."""

import dataclasses
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.platform import Platform, detect_platform
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model import kernel_choice
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.kernel_choice import (
    AttentionNeeds,
    attention_needs,
    attention_obstacle,
    check_requested_kernels,
    choose_kernels,
    compiler_obstacle,
)
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.shape import ModelShape
from modellink_rm.parallel.groups import process_groups
from tests.distributed import Workers
from tests.unit.model.test_attention_kernels import CPU, GPU_LIKE, SHAPE

BF16 = torch.bfloat16


class UntestedPlatform(Platform):
    """One whose kernels are tried before they are used."""

    is_tested = False


GPU = UntestedPlatform(**vars(GPU_LIKE))


class Seen(ReferenceAttention):
    """The reference, which notes what it is tried with."""

    calls: ClassVar[list[tuple[Sequence[Piece], tuple[int, ...], tuple[int, ...]]]] = []

    def __call__(self, query: Any, key: Any, value: Any, softmax: Any) -> Any:
        Seen.calls.append((self._pieces, tuple(query.shape), tuple(key.shape)))
        return super().__call__(query.float(), key.float(), value.float(), softmax).to(query.dtype)


def use(monkeypatch: pytest.MonkeyPatch, name: str, kernel: Any) -> None:
    """Put a kernel in the place of that name's."""
    monkeypatch.setitem(ATTENTION_KERNELS._entries, name, kernel)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    use(monkeypatch, "flex", Seen)
    monkeypatch.setattr(Seen, "calls", [])
    return Seen.calls


def needs(shape: ModelShape = SHAPE, **changes: Any) -> AttentionNeeds:
    found = attention_needs(shape, dtype=BF16, dropout=0.0, deterministic=False)
    return dataclasses.replace(found, **changes)


def test_a_kernel_is_tried_at_the_models_heads_over_hundreds_of_tokens_and_with_single_queries(
    tried: list[Any],
) -> None:
    shape = dataclasses.replace(
        SHAPE, num_attention_heads=32, num_query_groups=8, kv_channels=96, windows=(7,) * SHAPE.num_layers
    )
    assert attention_obstacle("flex", GPU, needs(shape)) is None
    whole = [call for call in tried if call[1][0] > 256]
    single = [call for call in tried if all(piece.num_queries == 1 for piece in call[0])]
    assert len(whole) == len(single) == 2
    for _, query, key in tried:
        assert query[1] == 4 * key[1]
        assert query[2] == key[2] == 96
    windows = {piece.window for pieces, _, _ in tried for piece in pieces}
    assert None in windows
    assert len(windows) == 2


def test_latent_attention_is_tried_at_the_wider_of_its_heads_without_groups() -> None:
    latent = LatentShape(
        key_value_rank=32,
        query_rank=None,
        rotary_channels=8,
        plain_channels=16,
        value_channels=40,
        norm_epsilon=1e-6,
    )
    found = needs(dataclasses.replace(SHAPE, latent=latent, kv_channels=24))
    assert (found.head_dim, found.heads_per_group) == (40, 1)


def test_a_kernel_that_is_wrong_only_for_single_queries_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(ReferenceAttention):
        def __call__(self, *arguments: Any) -> Any:
            output = super().__call__(*arguments)
            return output * 1.1 if all(piece.num_queries == 1 for piece in self._pieces) else output

    use(monkeypatch, "flex", Wrong)
    obstacle = attention_obstacle("flex", GPU, needs(dtype=torch.float32))
    assert str(obstacle).startswith("it differs from the reference by")


class NaNInItsKeysGradient(ReferenceAttention):
    """The reference, whose output is right."""

    def __call__(self, query: Any, key: Any, value: Any, softmax: Any) -> Any:
        key.register_hook(lambda gradient: gradient * torch.nan)
        return super().__call__(query, key, value, softmax)


def test_a_kernel_with_a_gradient_that_is_nan_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "flex", NaNInItsKeysGradient)
    found = attention_obstacle("flex", GPU, needs(dtype=torch.float32))
    assert found == "it differs from the reference by nan here"


def test_torchs_own_flash_attention_gets_a_second_trial_without_flash_attention_3(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"is_fa3": True}

    class Varlen(ReferenceAttention):
        def __call__(self, *arguments: Any) -> Any:
            if state["is_fa3"]:
                raise RuntimeError("no kernel image\nis available")
            return super().__call__(*arguments)

    def give_up() -> bool:
        was_fa3, state["is_fa3"] = state["is_fa3"], False
        return was_fa3

    use(monkeypatch, "varlen", Varlen)
    monkeypatch.setattr(kernel_choice, "_missing", lambda name, needs: None)
    assert attention_obstacle("varlen", GPU, needs()) == "it fails here (RuntimeError: no kernel image)"
    monkeypatch.setattr(kernel_choice, "gives_up_flash_attention_3", give_up)
    assert attention_obstacle("varlen", GPU, needs()) is None


def stand_in_flash_attn(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    flash = types.ModuleType("flash_attn")
    flash.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    flash.flash_attn_varlen_func = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)


def test_deterministic_refuses_a_flash_attn_that_cannot_and_asks_one_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def old(*arguments: Any, dropout_p: float, softmax_scale: float, causal: bool) -> Any:
        raise AssertionError("not called")

    stand_in_flash_attn(monkeypatch, old)
    config = KernelConfig(attention_backend="flash", deterministic=True)
    with pytest.raises(UserError, match="flash-attn has no deterministic, which this run needs"):
        check_requested_kernels(config, GPU_LIKE, shape=SHAPE, dtype=BF16, dropout=0.0)
    asked = []

    def new(query: Any, *arguments: Any, deterministic: bool = False, **words: Any) -> Any:
        asked.append(deterministic)
        return query

    stand_in_flash_attn(monkeypatch, new)
    check_requested_kernels(config, GPU_LIKE, shape=SHAPE, dtype=BF16, dropout=0.0)
    states = torch.zeros(3, 2, 4)
    for is_on in (False, True):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda is_on=is_on: is_on)
        kernel = ATTENTION_KERNELS["flash"]((Piece((0, 3), ((0, 3),)),), states.device, states.dtype)
        kernel(states, states, states, Softmax(scale=1.0))
    assert asked == [False, True]


def test_a_flash_attn_of_another_torch_is_passed_over_with_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in_flash_attn(monkeypatch, None)
    del sys.modules["flash_attn"].flash_attn_varlen_func
    obstacle = attention_obstacle("flash", GPU, needs())
    assert str(obstacle).startswith("the installed flash-attn cannot be imported (ImportError: cannot import")


def compiles(config: KernelConfig, platform: Platform, num_steps: int) -> bool:
    return choose_kernels(
        config, platform, shape=SHAPE, dtype=torch.float32, dropout=0.0, num_steps=num_steps
    ).compiles_elementwise


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged; attention is not tried."""
    lines: list[str] = []
    monkeypatch.setattr(kernel_choice, "info", lines.append)
    monkeypatch.setattr(kernel_choice, "attention_obstacle", lambda *_: None)
    return lines


def test_compiling_is_worth_it_on_a_gpu_and_for_long_runs_on_a_cpu(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = dataclasses.replace(GPU_LIKE, device=torch.device("cuda", 0), name="an H100")
    monkeypatch.setattr(Platform, "missing_compiler", lambda self: None)
    monkeypatch.setattr(kernel_choice, "compiler_obstacle", lambda *_, **__: None)
    assert not compiles(KernelConfig(), CPU, 499)
    assert compiles(KernelConfig(), CPU, 500)
    assert "compiled, because the run has 500 steps" in said[-1]
    assert compiles(KernelConfig(), gpu, 1)
    assert "compiled, because that saves time in every step on an H100" in said[-1]
    assert not compiles(KernelConfig(), gpu, 0)  # a scorer
    assert not compiles(KernelConfig(compile="never"), gpu, 500)
    assert compiles(KernelConfig(compile="always"), CPU, 1)


def test_a_compiler_that_fails_is_found_before_the_run_depends_on_it(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise RuntimeError("Python.h: No such file or directory")

        return call

    monkeypatch.setattr(Platform, "missing_compiler", lambda self: None)
    monkeypatch.setattr(kernel_choice, "compiled", broken)
    assert not compiles(KernelConfig(), CPU, 500)
    assert said[-1] == (
        "elementwise kernels: not compiled, because torch.compile fails here "
        "(RuntimeError: Python.h: No such file or directory)"
    )
    with pytest.raises(AgreedError, match=r"--compile always: torch.compile fails here .*Python\.h"):
        compiles(KernelConfig(compile="always"), CPU, 1)


def test_the_trial_of_the_compiler_runs_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "compiled", lambda function: function)
    assert compiler_obstacle(torch.device("cpu"), BF16, hidden_size=16) is None


def kernels_of_rank(failing_rank: int) -> tuple[str, list[str]]:
    """What a rank chooses where flex fails on one of them, and what is logged."""
    rank = torch.distributed.get_rank()

    def obstacle(name: str, *arguments: Any) -> str | None:
        return "it fails here" if name in ("flash", "varlen") or rank == failing_rank else None

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_choice, "info", lines.append)
        patch.setattr(
            kernel_choice, "attention_obstacle", lambda name, *_: obstacle(name) if name != "sdpa" else None
        )
        kernels = choose_kernels(KernelConfig(), GPU_LIKE, shape=SHAPE, dtype=BF16, dropout=0.0, num_steps=0)
    return kernels.attention, lines


def in_groups(failing_rank: int) -> tuple[str, list[str]]:
    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        return kernels_of_rank(failing_rank)


def test_processes_agree_on_a_kernel_that_works_in_all_of_them(workers: Workers) -> None:
    results = workers.run(in_groups, 2, 1)
    assert [name for name, _ in results] == ["sdpa", "sdpa"]
    assert "flex: it fails here (rank 1)" in results[0][1][-1]
