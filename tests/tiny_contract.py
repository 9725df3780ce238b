"""The inference contract of a small model."""

from modellink_rm.checkpoint.contract import InferenceContract, make_contract
from modellink_rm.templates.table import Template
from modellink_rm.tokenizers.tokenizer import Tokenizer


def tiny_contract(template: Template, tokenizer: Tokenizer) -> InferenceContract:
    """The contract of a model that was trained on 48 tokens at most, the two ends of an input."""
    return make_contract(
        template,
        tokenizer,
        not_use_fast=False,
        seq_length=48,
        truncation="keep-ends",
        handler=None,
        map_keys=None,
    )
