"""The operations of a layer in bfloat16, as transformers computes them."""

import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from modellink_rm.model.layers.elementwise import offset_rms_norm


def test_norm_of_gemma_adds_1_to_its_weight_in_float32() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden_states = torch.randn(50, 64, generator=generator).bfloat16()
    theirs = Gemma2RMSNorm(64, eps=1e-6)
    # Below half of the step from 1 to the next bfloat16: the sum would be 1.
    theirs.weight.data = torch.full((64,), 0.003).bfloat16()
    found = offset_rms_norm(hidden_states, theirs.weight, 1e-6)
    expected = theirs(hidden_states)
    assert found.dtype == expected.dtype == torch.bfloat16
    # A product may lie so close to the middle of two bfloat16 that its last float32 bit decides.
    assert (found == expected).double().mean() > 0.99
