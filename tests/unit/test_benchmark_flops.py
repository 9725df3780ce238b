"""The arithmetic behind the share of the matrix-product rate that benchmarks report."""

from benchmarks.flops import Shape, Stretch, training_flops

# One layer's weights: key and value 2 x 4 x 2 = 16; query and output 2 x 4 x 4, gated MLP 3 x 4 x 8: 128.
SHAPE = Shape(hidden_size=4, ffn_hidden_size=8, num_layers=2, num_heads=2, num_groups=1, head_dim=2)
# A prompt of 3 tokens sees 1 + 2 + 3, a response of 2 after it 4 + 5.
STRETCHES = [Stretch(3), Stretch(2, prefix=3)]
LAYER = 2 * (16 + 128) * 5 + 4 * (2 * 2) * (6 + 9)


def test_every_token_in_every_layer() -> None:
    assert training_flops(SHAPE, STRETCHES) == 3 * 2 * LAYER


def test_last_layer_computes_keys_and_values_alone_of_tokens_that_are_not_scored() -> None:
    last = 2 * 16 * 5 + 2 * 128 * 1 + 4 * (2 * 2) * 5
    assert training_flops(SHAPE, STRETCHES, scored_see=[5]) == 3 * (LAYER + last)


def test_an_own_prompt_for_each_response_costs_more() -> None:
    apart = [Stretch(5), Stretch(5)]
    assert training_flops(SHAPE, apart) > training_flops(SHAPE, [Stretch(3), *[Stretch(2, prefix=3)] * 2])
