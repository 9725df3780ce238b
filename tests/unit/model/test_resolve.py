import dataclasses
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import warn_once
from modellink_rm.config.model import ModelConfig
from modellink_rm.model.resolve import padded_vocab_size, resolve_shape
from modellink_rm.model.shape import ModelShape

# The model part of the known ChatGLM3-6B reward script.
CHATGLM3_FLAGS = """
--num-layers 28 --hidden-size 4096 --ffn-hidden-size 13696 --num-attention-heads 32
--max-position-embeddings 1024 --padded-vocab-size 65024 --make-vocab-size-divisible-by 1
--group-query-attention --num-query-groups 2 --disable-bias-linear --add-qkv-bias
--position-embedding-type rope --use-glm-rope --rotary-percent 0.5 --normalization RMSNorm --swiglu
--attention-dropout 0.0 --init-method-std 0.01 --hidden-dropout 0.0 --norm-epsilon 1e-6 --no-post-layer-norm
"""
CHATGLM3 = ModelShape(
    family="chatglm",
    num_layers=28,
    hidden_size=4096,
    ffn_hidden_size=13696,
    num_attention_heads=32,
    num_query_groups=2,
    kv_channels=128,
    vocab_size=65024,
    max_position_embeddings=8192,
    norm_epsilon=1e-5,
    rotary_base=10000.0,
    rotary_percent=0.5,
    rotary_interleaved=True,
    add_qkv_bias=True,
)


def parsed(flags: str) -> ModelConfig:
    config = parse_flags(flags.split(), [ModelConfig], prog="test", description="")[ModelConfig]
    assert isinstance(config, ModelConfig)
    return config


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    warn_once.cache_clear()
    monkeypatch.setattr("modellink_rm.model.resolve.warn_once", messages.append)
    return messages


def test_chatglm3_script_without_weights_gives_its_shape() -> None:
    expected = dataclasses.replace(CHATGLM3, max_position_embeddings=1024, norm_epsilon=1e-6)
    assert resolve_shape(parsed(CHATGLM3_FLAGS), None) == expected


def test_chatglm3_script_wins_over_weights_in_numbers_with_a_warning_each(warnings: list[str]) -> None:
    config = parsed(CHATGLM3_FLAGS)
    expected = dataclasses.replace(CHATGLM3, max_position_embeddings=1024, norm_epsilon=1e-6)
    assert resolve_shape(config, CHATGLM3, source="DIR/config.json") == expected
    assert warnings == [
        "--max-position-embeddings 1024 wins over 8192 of DIR/config.json",
        "--norm-epsilon 1e-06 wins over 1e-05 of DIR/config.json",
    ]
    assert not config.post_layer_norm
    assert config.init_method_std == 0.01


def test_weights_alone_give_the_shape_without_a_warning(warnings: list[str]) -> None:
    assert resolve_shape(ModelConfig(), CHATGLM3) == CHATGLM3
    assert warnings == []


def test_rotary_base_wins_over_weights(warnings: list[str]) -> None:
    assert resolve_shape(parsed("--rotary-base 5e5"), CHATGLM3).rotary_base == 500000.0
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-layers 32", "--num-layers 32 contradicts num_layers 28 of DIR"),
        ("--hidden-size 5120", "--hidden-size 5120 contradicts hidden_size 4096 of DIR"),
        ("--ffn-hidden-size 1", "--ffn-hidden-size 1 contradicts"),
        ("--num-attention-heads 16", "--num-attention-heads 16 contradicts"),
        ("--kv-channels 64", "--kv-channels 64 contradicts"),
        ("--rotary-percent 1.0", "--rotary-percent 1.0 contradicts"),
        ("--group-query-attention --num-query-groups 4", "--num-query-groups 4 contradicts"),
    ],
)
def test_flag_that_contradicts_the_weights_is_an_error_naming_both(flags: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_shape(parsed(flags), CHATGLM3, source="DIR")
    assert message in str(error.value)


@pytest.mark.parametrize("flag", ["--add-qkv-bias", "--use-glm-rope"])
def test_switch_that_the_weights_do_not_have_is_an_error(flag: str) -> None:
    weights = dataclasses.replace(CHATGLM3, rotary_interleaved=False, add_qkv_bias=False)
    with pytest.raises(UserError, match=f"{flag} contradicts"):
        resolve_shape(parsed(flag), weights)


def test_missing_flags_without_weights_are_all_listed() -> None:
    with pytest.raises(UserError) as error:
        resolve_shape(parsed("--num-layers 2 --hidden-size 64"), None)
    for name in ("--ffn-hidden-size", "--num-attention-heads", "--max-position-embeddings"):
        assert name in str(error.value)
    assert "--padded-vocab-size" in str(error.value)
    assert "--num-layers" not in str(error.value)


TINY = (
    "--num-layers 2 --hidden-size 64 --ffn-hidden-size 96 --num-attention-heads 8 "
    "--max-position-embeddings 512 --padded-vocab-size 320 "
)


@pytest.mark.parametrize(
    ("flags", "groups"),
    [("", 8), ("--group-query-attention", 1), ("--group-query-attention --num-query-groups 4", 4)],
)
def test_query_groups_without_weights_are_as_in_megatron(flags: str, groups: int) -> None:
    assert resolve_shape(parsed(TINY + flags), None).num_query_groups == groups


def test_query_groups_without_grouped_queries_are_refused() -> None:
    with pytest.raises(UserError, match="means nothing without --group-query-attention"):
        parsed(TINY + "--num-query-groups 4")
    assert parsed(TINY + "--num-query-groups 8").num_query_groups == 8


def test_plain_shape_rotates_whole_heads_and_glm_half_of_them() -> None:
    assert resolve_shape(parsed(TINY), None).rotary_channels == 8
    assert resolve_shape(parsed(TINY + "--use-glm-rope"), None).rotary_channels == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num-layers 0", "--num-layers must be above 0, got 0"),
        ("--norm-epsilon -1", "--norm-epsilon must be above 0"),
        ("--make-vocab-size-divisible-by 0", "--make-vocab-size-divisible-by must be above 0"),
        ("--attention-dropout 1.0", "--attention-dropout must lie in"),
        ("--hidden-dropout -0.1", "--hidden-dropout must lie in"),
        ("--init-method-std -1", "--init-method-std must not be negative"),
        ("--normalization LayerNorm", "unknown --normalization 'LayerNorm'"),
        ("--position-embedding-type alibi", "unknown --position-embedding-type 'alibi'"),
    ],
)
def test_value_out_of_range_is_one_line_naming_the_flag(flags: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers of a model must be at least 1"),
        ({"num_query_groups": 5}, "num_query_groups 5 does not divide num_attention_heads 32"),
        ({"rotary_percent": 1.5}, "rotary_percent"),
        ({"kv_channels": 6}, "even number"),
    ],
)
def test_impossible_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CHATGLM3, **changes)


@pytest.mark.parametrize(
    ("flags", "tensor_parallel_size", "rows"),
    [
        ("", 1, 65024),  # 508 * 128
        ("", 8, 65536),
        ("--make-vocab-size-divisible-by 1", 8, 65024),
        ("--make-vocab-size-divisible-by 1000", 2, 66000),
        ("--padded-vocab-size 65024", 4, 65024),
        ("--padded-vocab-size 65026", 2, 65026),
    ],
)
def test_vocabulary_is_padded_to_a_multiple_or_as_given(
    flags: str, tensor_parallel_size: int, rows: int
) -> None:
    assert padded_vocab_size(parsed(flags), CHATGLM3, tensor_parallel_size) == rows


def test_padded_vocabulary_below_the_weights_or_indivisible_is_refused() -> None:
    with pytest.raises(UserError, match="--padded-vocab-size 65000 is below the 65024"):
        padded_vocab_size(parsed("--padded-vocab-size 65000"), CHATGLM3, 1)
    with pytest.raises(UserError, match="4 does not divide --padded-vocab-size 65026"):
        padded_vocab_size(parsed("--padded-vocab-size 65026"), CHATGLM3, 4)
