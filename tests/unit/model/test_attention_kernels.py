"""Every attention kernel gives what the reference gives in float64."""

import dataclasses
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import Platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece, pieces_of
from modellink_rm.model.kernel_choice import choose_kernels, difference_from_reference
from tests.tiny_data import random_example

CPU = Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))
# What torch and flash-attn name a GPU's; kernels are stand-ins or missing here.
GPU_LIKE = Platform(torch.device("cpu"), "nccl", "a GPU", ("flash", "varlen", "flex", "sdpa"))


def random_pieces(seed: int) -> tuple[Piece, ...]:
    """Of three examples with one to three answers, shared prompts, an empty prompt and one-token answers."""
    generator = np.random.default_rng(seed)
    examples = []
    for index, prompt in enumerate((int(generator.integers(1, 40)), 0, 1)):
        lengths = (1, *generator.integers(1, 30, size=index))
        examples.append(random_example(index, prompt, *lengths))
    batch = pack_examples(examples)
    return pieces_of(batch.segments, batch.ranges)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
def test_sdpa_equals_the_reference(seed: int, groups: int, dtype: torch.dtype, tolerance: float) -> None:
    difference = difference_from_reference(
        ATTENTION_KERNELS["sdpa"],
        torch.device("cpu"),
        dtype,
        pieces=random_pieces(seed),
        groups=groups,
        head_dim=16,
        seed=seed,
    )
    assert difference < tolerance  # rounding of the dtype, times some tens of summed keys


@pytest.mark.parametrize("seed", range(3))
def test_flex_mask_equals_the_reference(seed: int) -> None:
    pieces = random_pieces(seed)
    num_tokens = pieces[-1].queries[1]
    query, key, value = (torch.randn(num_tokens, heads, 16) for heads in (4, 2, 2))
    outputs = [
        make(pieces, query.device, query.dtype)(query, key, value, scale=0.25, dropout=0.0)
        for make in (ATTENTION_KERNELS["flex"], ReferenceAttention)
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", sorted(ATTENTION_KERNELS))
def test_kernels_of_a_gpu_equal_the_reference_on_fresh_numbers(name: str, dtype: torch.dtype) -> None:
    gpu = dataclasses.replace(GPU_LIKE, device=torch.device("cuda", 0))
    try:
        choice(name, gpu, dtype=dtype)
    except UserError as error:
        pytest.skip(str(error))
    for seed in np.random.default_rng().integers(0, 2**31, size=10).tolist():
        difference = difference_from_reference(
            ATTENTION_KERNELS[name], gpu.device, dtype, pieces=random_pieces(seed), seed=seed
        )
        assert difference < (2e-2 if dtype == torch.bfloat16 else 1e-5), f"seed {seed}"


def causal_at_the_end(
    query: Tensor, key: Tensor, value: Tensor, query_starts: Tensor, key_starts: Tensor, scale: float
) -> Tensor:
    """What flash attention calls causal over sequences of different lengths, by its documentation."""
    outputs = []
    for number in range(len(query_starts) - 1):
        q = query[query_starts[number] : query_starts[number + 1]]
        k = key[key_starts[number] : key_starts[number + 1]].repeat_interleave(q.shape[1] // key.shape[1], 1)
        v = value[key_starts[number] : key_starts[number + 1]].repeat_interleave(
            q.shape[1] // key.shape[1], 1
        )
        logits = torch.einsum("qhd,khd->hqk", q, k) * scale
        later = torch.arange(len(k))[None] > torch.arange(len(q))[:, None] + len(k) - len(q)
        outputs.append(torch.einsum("hqk,khd->qhd", logits.masked_fill(later, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


def stand_in_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    assert window_size == (-1, 0)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    return causal_at_the_end(query, key, value, cu_seq_q, cu_seq_k, scale)


def stand_in_flash(*arguments: Any, dropout_p: float, softmax_scale: float, causal: bool) -> Tensor:
    assert causal
    assert dropout_p == 0.0
    return stand_in_varlen(
        *arguments,
        scale=softmax_scale,
        window_size=(-1, 0),
        enable_gqa=arguments[0].shape[1] != arguments[1].shape[1],
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["varlen", "flash"])
def test_kernels_of_gpu_libraries_are_called_as_documented(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "varlen":
        reason = f"torch {torch.__version__} does not have it; runs take another kernel then"
        varlen = pytest.importorskip("torch.nn.attention.varlen", reason=reason)
        monkeypatch.setattr(varlen, "varlen_attn", stand_in_varlen)
    flash = types.ModuleType("flash_attn")
    flash.flash_attn_varlen_func = stand_in_flash  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    difference = difference_from_reference(
        ATTENTION_KERNELS[name],
        torch.device("cpu"),
        torch.float64,
        pieces=random_pieces(seed),
        head_dim=16,
        seed=seed,
    )
    assert difference < 1e-12


def choice(name: str, platform: Platform, *, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> str:
    config = KernelConfig(attention_backend=name)
    return choose_kernels(config, platform, dtype=dtype, dropout=dropout, num_steps=0).attention


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    lines: list[str] = []
    monkeypatch.setattr("modellink_rm.model.kernel_choice.info", lines.append)
    return lines


def test_auto_takes_the_first_that_works_and_says_why(said: list[str]) -> None:
    assert choice("auto", CPU) == "sdpa"
    assert choice("auto", GPU_LIKE, dropout=0.1) == "sdpa"
    assert said[0] == "attention: sdpa, because it is the first choice on a CPU"
    assert said[1].startswith(
        "attention: sdpa, because flash: it needs --bf16; varlen: it needs --bf16; flex: "
    )
    assert choice("reference", CPU) == "reference"


@pytest.mark.parametrize(
    ("name", "platform", "options", "message"),
    [
        ("flex", CPU, {}, "flex: it does not run on a CPU"),
        ("varlen", GPU_LIKE, {}, "varlen: it needs --bf16"),
        ("flex", GPU_LIKE, {"dropout": 0.1}, "flex: it has no --attention-dropout"),
        ("flash", GPU_LIKE, {"dtype": torch.bfloat16}, "flash: the package flash-attn is not installed"),
    ],
)
def test_a_kernel_that_cannot_work_is_refused_by_name(
    name: str, platform: Platform, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choice(name, platform, **options)


def test_compiling_is_worth_it_for_long_runs_only(said: list[str]) -> None:
    def compiles(config: KernelConfig, num_steps: int) -> bool:
        return choose_kernels(
            config, CPU, dtype=torch.float32, dropout=0.0, num_steps=num_steps
        ).compiles_elementwise

    assert not compiles(KernelConfig(), 499)
    assert compiles(KernelConfig(), 500)
    assert "compiled, because the run has 500 steps" in said[-1]
    assert not compiles(KernelConfig(compile="never"), 500)
    assert compiles(KernelConfig(compile="always"), 1)
