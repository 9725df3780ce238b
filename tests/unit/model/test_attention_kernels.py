"""Every attention kernel gives what the reference gives in float64."""

import dataclasses
import importlib.machinery
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma2_attention
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss_attention

from modellink_rm.base.errors import UserError
from modellink_rm.base.platform import Platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.model.attention.blocks import blocks_of_pieces
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece, pieces_of, with_window
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.kernel_choice import choose_kernels, difference_from_reference
from modellink_rm.model.layers.elementwise import compiled_for_all_sizes
from modellink_rm.model.resolve import resolve_shape
from modellink_rm.model.shape import ModelShape
from tests.tiny_data import random_example
from tests.unit.model.test_resolve import TINY, parsed

CPU = Platform(torch.device("cpu"), "gloo", "a CPU", ("sdpa",))
# What torch and flash-attn name a GPU's; kernels are stand-ins or missing here.
GPU_LIKE = Platform(torch.device("cpu"), "nccl", "a GPU", ("flash", "varlen", "flex", "sdpa"))

SHAPE = resolve_shape(parsed(TINY), None)
CAPPED = dataclasses.replace(SHAPE, attention_softcap=50.0)
SUNK = dataclasses.replace(SHAPE, attention_sinks=True)


def random_pieces(seed: int, window: int | None = None) -> tuple[Piece, ...]:
    """Of three examples with one to three answers, shared prompts, an empty prompt and one-token answers."""
    generator = np.random.default_rng(seed)
    examples = []
    for index, prompt in enumerate((int(generator.integers(1, 40)), 0, 1)):
        lengths = (1, *generator.integers(1, 30, size=index))
        examples.append(random_example(index, prompt, *lengths))
    batch = pack_examples(examples)
    return with_window(pieces_of(batch.segments, batch.ranges), window)


# A cap that bends the logits of these tests, whose standard deviation is 1.
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"softcap": 1.5},
    "sinks": {"has_sinks": True},
    "softcap_and_sinks": {"softcap": 1.5, "has_sinks": True},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("window", "short"), [(None, 0), (None, 768), (2, 768), (7, 768), (25, 768)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
def test_sdpa_equals_the_reference(
    seed: int,
    window: int | None,
    short: int,
    form: str,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modellink_rm.model.attention.blocks.SHORT", short)
    difference = difference_from_reference(
        ATTENTION_KERNELS["sdpa"],
        torch.device("cpu"),
        dtype,
        pieces=random_pieces(seed, window),
        groups=(4, 2, 1)[seed],
        head_dim=16,
        seed=seed,
        **FORMS[form],
    )
    assert difference < tolerance  # rounding of the dtype, times some tens of summed keys


def test_sequences_of_a_length_that_fills_no_register_see_nothing_of_their_neighbours() -> None:
    """Keys of zeros fill it, with gradients of their own that go nowhere."""
    pieces = (Piece((0, 5), ((0, 5),)), Piece((5, 8), ((0, 5), (5, 8))), Piece((8, 30), ((8, 30),)))
    kernel = ATTENTION_KERNELS["sdpa"](pieces, CPU.device, torch.float32)
    query, key, value = (torch.randn(30, heads, 16) for heads in (4, 2, 2))
    outputs = []
    for other in (0.0, torch.nan):
        states = [one.clone() for one in (query, key, value)]
        for one in states:
            one[8:] = other
            one.requires_grad_()
        output = kernel(states[0], states[1], states[2], Softmax(scale=0.25))[:8]
        gradients = torch.autograd.grad(output.square().sum(), states)
        outputs.append([output.detach(), *(one[:8] for one in gradients)])
    for found, expected in zip(*outputs, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["reference", "sdpa", "flex"])
@pytest.mark.parametrize("window", [None, 7])
def test_softcaps_and_sinks_are_those_of_transformers(name: str, window: int | None) -> None:
    query, key, value = (torch.randn(20, heads, 16) for heads in (4, 2, 2))
    sinks = torch.randn(4)
    distance = torch.arange(20)[:, None] - torch.arange(20)[None]
    hidden = (distance < 0) | (distance >= (window or 20))
    by_head = [states.transpose(0, 1)[None] for states in (query, key, value)]
    module: Any = types.SimpleNamespace(num_key_value_groups=2, training=False, sinks=sinks)
    mask = torch.zeros(20, 20).masked_fill(hidden, -torch.inf)
    expected = {
        "softcap": gemma2_attention(module, *by_head, mask, scaling=0.25, softcap=1.5)[0][0],
        "sinks": gpt_oss_attention(module, *by_head, mask, scaling=0.25)[0][0],
    }
    kernel = ATTENTION_KERNELS[name](
        with_window((Piece((0, 20), ((0, 20),)),), window), query.device, query.dtype
    )
    found = {
        "softcap": kernel(query, key, value, Softmax(scale=0.25, softcap=1.5)),
        "sinks": kernel(query, key, value, Softmax(scale=0.25, sinks=sinks)),
    }
    for form, output in expected.items():
        torch.testing.assert_close(found[form], output, atol=1e-5, rtol=1e-5, msg=form)


def test_long_pieces_with_a_softcap_are_cut_into_blocks_that_equal_the_reference() -> None:
    pieces = (Piece((0, 600), ((0, 600),)), Piece((600, 900), ((0, 500), (600, 900))))
    assert len(blocks_of_pieces(pieces, is_capped=True)) == 5  # of at most 256 queries
    difference = difference_from_reference(
        ATTENTION_KERNELS["sdpa"], torch.device("cpu"), torch.float64, pieces=pieces, softcap=1.5, head_dim=8
    )
    assert difference < 1e-12


def test_responses_to_one_prompt_see_it_together() -> None:
    batch = pack_examples([random_example(0, 900, 3, 4, 5), random_example(1, 1000, 2)])
    prompt, responses, alone = blocks_of_pieces(pieces_of(batch.segments, batch.ranges), is_capped=False)
    assert (prompt.queries, responses.queries, alone.queries) == ((0, 900), (900, 912), (912, 1914))
    assert [(part.queries, part.keys, part.order) for part in responses.parts] == [
        ((0, 3), ((900, 903),), "causal"),
        ((3, 7), ((903, 907),), "causal"),
        ((7, 12), ((907, 912),), "causal"),
        ((0, 12), ((0, 900),), "all"),
    ]


def test_short_pieces_are_cut_into_few_queries_with_the_keys_that_the_last_one_sees() -> None:
    batch = pack_examples([random_example(0, 150, 200, 100)])
    pieces = pieces_of(batch.segments, batch.ranges)
    assert [(block.queries, block.parts[0].keys) for block in blocks_of_pieces(pieces, is_capped=False)] == [
        ((0, 117), ((0, 117),)),
        ((117, 234), ((0, 234),)),
        ((234, 350), ((0, 350),)),
        ((350, 450), ((0, 150), (350, 450))),
    ]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        difference = difference_from_reference(
            ATTENTION_KERNELS["sdpa"], torch.device("cpu"), dtype, pieces=pieces, head_dim=16
        )
        assert difference < tolerance


def test_gradients_in_bf16_of_a_prompt_with_many_answers_are_added_up_in_float32() -> None:
    batch = pack_examples([random_example(0, 150, *[30] * 64)])
    difference = difference_from_reference(
        ATTENTION_KERNELS["sdpa"],
        torch.device("cpu"),
        torch.bfloat16,
        pieces=pieces_of(batch.segments, batch.ranges),
        head_dim=16,
    )
    assert difference < 1e-2  # in bf16 they were off by 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sdpa_of_a_gpu_is_given_a_key_head_for_each_query_head(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[set[int]] = []

    def stand_in(query: Tensor, key: Tensor, value: Tensor, **words: Any) -> Tensor:
        heads.append({query.shape[1], key.shape[1], value.shape[1]})
        assert not words.get("enable_gqa")
        return query

    monkeypatch.setattr("modellink_rm.model.attention.kernels.is_cpu", lambda device: False)  # as on a GPU
    monkeypatch.setattr("modellink_rm.model.attention.kernels.scaled_dot_product_attention", stand_in)
    query, key, value = (torch.randn(20, heads, 16, dtype=dtype) for heads in (6, 2, 2))
    kernel = ATTENTION_KERNELS["sdpa"](
        (Piece((0, 15), ((0, 15),)), Piece((15, 20), ((0, 5), (15, 20)))), query.device, dtype
    )
    kernel(query, key, value, Softmax(scale=0.25))
    assert heads == [{6}, {6}]


@pytest.mark.parametrize("window", [None, 2, 7])
def test_sdpa_with_masks_equals_the_reference(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modellink_rm.model.attention.kernels.is_cpu", lambda device: False)  # as on a GPU
    difference = difference_from_reference(
        ATTENTION_KERNELS["sdpa"],
        torch.device("cpu"),
        torch.float64,
        pieces=random_pieces(1, window),
        head_dim=16,
    )
    assert difference < 1e-12


@pytest.mark.parametrize("window", [None, 2, 7])
@pytest.mark.parametrize("form", FORMS)
def test_flex_output_equals_the_reference(form: str, window: int | None) -> None:
    pieces = random_pieces(2, window)
    num_tokens = pieces[-1].queries[1]
    query, key, value = (torch.randn(num_tokens, heads, 16) for heads in (4, 2, 2))
    softmax = Softmax(
        scale=0.25,
        softcap=FORMS[form].get("softcap"),
        sinks=torch.randn(4) if "has_sinks" in FORMS[form] else None,
    )
    outputs = [
        make(pieces, query.device, query.dtype)(query, key, value, softmax)
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
            ATTENTION_KERNELS[name],
            gpu.device,
            dtype,
            pieces=random_pieces(seed, (None, 2, 7, 25)[seed % 4]),
            seed=seed,
        )
        assert difference < (2e-2 if dtype == torch.bfloat16 else 1e-5), f"seed {seed}"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_of_a_gpu_is_chosen_for_every_form_of_attention(form: str) -> None:
    gpu = dataclasses.replace(GPU_LIKE, device=torch.device("cuda", 0))
    shape = dataclasses.replace(
        SHAPE,
        windows=(7,) * SHAPE.num_layers,
        attention_softcap=FORMS[form].get("softcap"),
        attention_sinks="has_sinks" in FORMS[form],
    )
    assert choice("auto", gpu, dtype=torch.bfloat16, shape=shape) != "reference"


def causal_at_the_end(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_starts: Tensor,
    key_starts: Tensor,
    scale: float,
    num_earlier: int,
    softcap: float = 0.0,
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
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        own = torch.arange(len(q))[:, None] + len(k) - len(q)
        keys = torch.arange(len(k))[None]
        hidden = (keys > own) | (keys < own - num_earlier if num_earlier >= 0 else False)
        outputs.append(torch.einsum("hqk,khd->qhd", logits.masked_fill(hidden, -torch.inf).softmax(-1), v))
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
    softcap: float = 0.0,
) -> Tensor:
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    return causal_at_the_end(query, key, value, cu_seq_q, cu_seq_k, scale, window_size[0], softcap)


def stand_in_flash(
    *arguments: Any,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int] = (-1, 0),
    softcap: float = 0.0,
) -> Tensor:
    assert causal
    assert dropout_p == 0.0
    return stand_in_varlen(
        *arguments,
        scale=softmax_scale,
        window_size=window_size,
        softcap=softcap,
        enable_gqa=arguments[0].shape[1] != arguments[1].shape[1],
    )


@pytest.mark.parametrize("window", [None, 2, 7])
@pytest.mark.parametrize(("name", "softcap"), [("varlen", None), ("flash", None), ("flash", 1.5)])
def test_kernels_of_gpu_libraries_are_called_as_documented(
    name: str, softcap: float | None, window: int | None, monkeypatch: pytest.MonkeyPatch
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
        pieces=random_pieces(2, window),
        head_dim=16,
        softcap=softcap,
    )
    assert difference < 1e-12


def choice(
    name: str,
    platform: Platform,
    *,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    shape: ModelShape = SHAPE,
) -> str:
    config = KernelConfig(attention_backend=name)
    return choose_kernels(config, platform, shape=shape, dtype=dtype, dropout=dropout, num_steps=0).attention


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
        (
            "varlen",
            GPU_LIKE,
            {"dtype": torch.bfloat16, "shape": CAPPED},
            "varlen: it has no softcap of logits",
        ),
        ("flash", GPU_LIKE, {"dtype": torch.bfloat16, "shape": SUNK}, "flash: it has no attention sinks"),
        (
            "sdpa",
            CPU,
            {"dropout": 0.1, "shape": SUNK},
            "sinks, which this model has with --attention-dropout",
        ),
    ],
)
def test_a_kernel_that_cannot_work_is_refused_by_name(
    name: str, platform: Platform, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        choice(name, platform, **options)


def test_the_reference_serves_a_model_that_no_faster_kernel_can(said: list[str]) -> None:
    assert choice("auto", CPU, shape=CAPPED) == choice("auto", CPU, shape=SUNK) == "sdpa"
    assert choice("auto", CPU, dropout=0.1) == "sdpa"
    assert choice("auto", CPU, dropout=0.1, shape=CAPPED) == "reference"
    assert said[-1] == (
        "attention: reference, because sdpa: it has no softcap of logits, which this model has with "
        "--attention-dropout"
    )


def test_an_old_flash_attn_without_windows_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*arguments: Any, dropout_p: float, softmax_scale: float, causal: bool) -> Tensor:
        raise AssertionError("not called")

    flash = types.ModuleType("flash_attn")
    flash.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    flash.flash_attn_varlen_func = old  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", flash)
    windowed = dataclasses.replace(CAPPED, windows=(7,) * SHAPE.num_layers)
    with pytest.raises(UserError, match="flash-attn has no window_size and no softcap, which this run needs"):
        choice("flash", GPU_LIKE, dtype=torch.bfloat16, shape=windowed)


@pytest.mark.full
def test_flex_is_compiled_for_few_layouts_and_serves_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **words: compile_(function, backend=counter, **words)
    )
    monkeypatch.setattr("modellink_rm.model.attention.kernels.is_cpu", lambda device: False)  # as on a GPU
    compiled_for_all_sizes.cache_clear()
    layouts = [random_pieces(seed, (None, 2, 7)[seed % 3]) for seed in range(5)]
    layouts += [(Piece((0, length), ((0, length),)),) for length in (2, 128, 129, 700, 300, 1000)]
    counts = []
    for pieces in layouts:
        num_tokens = pieces[-1].queries[1]
        query, key, value = (torch.randn(num_tokens, heads, 16) for heads in (4, 2, 2))
        outputs = [
            make(pieces, query.device, query.dtype)(query, key, value, Softmax(scale=0.25))
            for make in (ATTENTION_KERNELS["flex"], ReferenceAttention)
        ]
        torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
        counts.append(counter.frame_count)
    compiled_for_all_sizes.cache_clear()
    # The mask and attention, each for one block of keys and for several.
    assert counts == [2] * 7 + [4] * 4
