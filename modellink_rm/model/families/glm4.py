"""GLM-4-0414 (transformers 5, models/glm4): GLM-4 with norms after attention and MLP."""

import functools

from modellink_rm.model.families.family import Family
from modellink_rm.model.families.glm import GLM_NAMES, glm_shape
from modellink_rm.model.families.llama import LAYER
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.tensors import decoder_tensors, post_norms
from modellink_rm.model.layers.block import decoder_layer
from modellink_rm.model.layers.norm import RMSNorm

FAMILIES.add(
    Family(
        read_shape=glm_shape,
        tensors=decoder_tensors(
            **GLM_NAMES,
            more_of_layer=post_norms(LAYER + "post_self_attn_layernorm", LAYER + "post_mlp_layernorm"),
        ),
        classifier="Glm4ForSequenceClassification",
        layer=functools.partial(decoder_layer, post_norm=RMSNorm),
    ),
    "glm4",
)
