"""FLOPs against a count by hand, and against those that torch counts of the products it runs."""

import dataclasses

import numpy as np
import pytest

from modellink_rm.batching.batch import pack_examples
from modellink_rm.dataset.example import Example, Response
from modellink_rm.experts.shape import Experts
from modellink_rm.model.flops import forward_flops, num_seen, num_seen_by_scored, training_flops
from modellink_rm.model.latent_shape import LatentShape
from modellink_rm.model.shape import ModelShape

SHAPE = ModelShape(
    family="llama",
    num_layers=3,
    hidden_size=4,
    ffn_hidden_size=5,
    num_attention_heads=2,
    num_query_groups=1,
    kv_channels=3,
    vocab_size=10,
    max_position_embeddings=8,
    norm_epsilon=1e-5,
    rotary_base=1e4,
    rotary_percent=0.7,
    rotary_interleaved=False,
    add_qkv_bias=False,
)


def example(num_prompt_tokens: int, *lengths: int) -> Example:
    prompt = np.arange(num_prompt_tokens, dtype=np.int32)
    return Example(
        0,
        tuple(
            Response(np.concatenate([prompt, np.full(length, number + 5, np.int32)]), num_prompt_tokens)
            for number, length in enumerate(lengths)
        ),
    )


def test_flops_are_those_counted_by_hand() -> None:
    batch = pack_examples([example(2, 1, 3)])
    # Prompt tokens see 1 and 2; the first answer's token sees the prompt and itself, the second
    # answer's three see 3, 4 and 5.
    assert num_seen(batch) == 1 + 2 + 3 + 3 + 4 + 5
    assert num_seen_by_scored(batch) == 3 + 5
    # Of one token: q 2*4*6, k and v 2*4*6, output 2*6*4, gate, up and down 3 * 2*4*5; a seen token
    # takes 2*6 for its score and 2*6 for its value.
    whole_layer = 6 * (48 + 48 + 48 + 120) + 18 * 24
    last_layer = 6 * 48 + 2 * (48 + 48 + 120) + 8 * 24
    head = 2 * 2 * 4
    assert forward_flops(SHAPE, batch) == 2 * whole_layer + last_layer + head
    assert training_flops(SHAPE, batch) == 3 * forward_flops(SHAPE, batch)


def test_experts_take_those_that_compute_a_token() -> None:
    experts = Experts(
        number=8,
        ffn_hidden_size=3,
        top_k=2,
        normalizes_weights=True,
        shared_ffn_hidden_size=6,
        has_shared_gate=True,
        dense_layers=(0,),
    )
    batch = pack_examples([example(2, 1, 3)])
    sparse = dataclasses.replace(SHAPE, experts=experts)
    # In place of gate, up and down of 5 channels those of 2 * 3 + 6, a router of 8 and a gate of 1: in the
    # second layer for 6 tokens, in the last for 2.
    more = 3 * 2 * 4 * (12 - 5) + 2 * 4 * 9
    assert forward_flops(sparse, batch) == forward_flops(SHAPE, batch) + (6 + 2) * more
    # Routers that are balanced want all tokens of the last layer.
    balanced = dataclasses.replace(sparse, experts=dataclasses.replace(experts, aux_loss_coef=0.1))
    token = 48 + 48 + 3 * 2 * 4 * 12 + 2 * 4 * 9
    seen = num_seen(batch) - num_seen_by_scored(batch)
    assert forward_flops(balanced, batch) == forward_flops(sparse, batch) + 4 * token + seen * 24


@pytest.mark.parametrize("query_rank", [None, 3])
def test_latent_attention_takes_products_of_its_own_sizes(query_rank: int | None) -> None:
    latent = LatentShape(
        key_value_rank=7,
        query_rank=query_rank,
        rotary_channels=2,
        plain_channels=1,
        value_channels=5,
        norm_epsilon=1e-6,
    )
    shape = dataclasses.replace(SHAPE, num_query_groups=2, latent=latent)
    # Of one token: 2*4*9 to the small vector and the rotated channels, 2*7*12 to keys and values of both
    # heads; q 2*4*6, or with 3 channels between 2*4*3 + 2*3*6; output 2*10*4; a seen token takes 2*6 for its
    # score and 2*10 for its value.
    keys_and_values = 72 + 168
    queries = 48 if query_rank is None else 24 + 36
    whole_layer = 6 * (keys_and_values + queries + 80 + 120) + 18 * 32
    last_layer = 6 * keys_and_values + 2 * (queries + 80 + 120) + 8 * 32
    batch = pack_examples([example(2, 1, 3)])
    assert forward_flops(shape, batch) == 2 * whole_layer + last_layer + 2 * 2 * 4


def test_separate_prompts_take_more_tokens() -> None:
    batch = pack_examples([example(2, 1, 3)], share_prefixes=False)
    assert num_seen(batch) == (1 + 2 + 3) + (1 + 2 + 3 + 4 + 5)
    assert num_seen_by_scored(batch) == 3 + 5


def test_padding_takes_none() -> None:
    examples = [example(2, 1, 3), example(1, 1, 2)]
    padded = pack_examples(examples, divisible_by=16)
    assert padded.num_padding > 0
    assert training_flops(SHAPE, padded) == training_flops(SHAPE, pack_examples(examples))


def test_scored_positions_count_once_wherever_they_are() -> None:
    empty, equal = example(2, 0, 3), example(1, 2)  # one scored at the end of its prompt
    twice = Example(1, (equal.responses[0], equal.responses[0]))
    batch = pack_examples([empty, twice], divisible_by=16)
    assert num_seen_by_scored(batch) == 2 + 5 + 3


def test_a_layer_with_a_window_takes_only_what_its_tokens_see() -> None:
    batch = pack_examples([example(2, 1, 3)])
    assert num_seen(batch, 2) == 1 + 2 + 2 + 2 + 2 + 2
    assert num_seen_by_scored(batch, 4) == 3 + 4
    windowed = dataclasses.replace(SHAPE, windows=(2, None, 4))
    hidden = (18 - 11) + (8 - 7)  # in the first and the last layer
    assert forward_flops(windowed, batch) == forward_flops(SHAPE, batch) - 24 * hidden
