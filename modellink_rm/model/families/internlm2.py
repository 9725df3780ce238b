"""InternLM2 and InternLM2.5 in their own form (their modeling_internlm2.py).

One tensor holds queries, keys and values, group by group. InternLM2ForRewardModel keeps its head as
`v_head`; the last token that it reads is the reward token, which its `get_score` appends to the conversation.
"""

from modellink_rm.model.families.family import Config, Family
from modellink_rm.model.families.fields import check_values, key_value_heads, transformers_shape
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.rotary_fields import whole_rope
from modellink_rm.model.families.row_orders import query_key_value_by_group
from modellink_rm.model.families.tensors import decoder_tensors
from modellink_rm.model.shape import ModelShape

_LAYER = "{prefix}layers.{layer}."
_TENSORS = decoder_tensors(
    prefix="model.",
    embedding="{prefix}tok_embeddings",
    final_norm="{prefix}norm",
    input_norm=_LAYER + "attention_norm",
    qkv=(_LAYER + "attention.wqkv",),
    attention_output=_LAYER + "attention.wo",
    mlp_norm=_LAYER + "ffn_norm",
    gate_and_up=(_LAYER + "feed_forward.w1", _LAYER + "feed_forward.w3"),
    mlp_output=_LAYER + "feed_forward.w2",
    lm_head="output",
    buffers=("rotary_emb.inv_freq",),
    head="v_head",
    query_key_value_order=query_key_value_by_group,
)


def _internlm2_shape(config: Config) -> ModelShape:
    check_values({"bias": True, **config}, {"bias": (False,)})  # their default is True
    return transformers_shape(
        config, rope=whole_rope(config), num_query_groups=key_value_heads(config), add_qkv_bias=False
    )


FAMILIES.add(
    Family(
        read_shape=_internlm2_shape,
        tensors=_TENSORS,
        classifier="InternLM2ForRewardModel",
        reward_token_field="reward_token_id",
    ),
    "internlm2",
)
