"""ChatGLM2, ChatGLM3 and GLM-4 in THUDM's names, opened as transformers' Glm, without remote code."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GlmConfig, GlmModel

_RENAMED = {
    "encoder.layers.": "layers.",
    "encoder.final_layernorm.": "norm.",
    "embedding.word_embeddings.": "embed_tokens.",
    "self_attention.dense.": "self_attn.o_proj.",
    "mlp.dense_h_to_4h.": "mlp.gate_up_proj.",
    "mlp.dense_4h_to_h.": "mlp.down_proj.",
}


def load_publisher_glm(directory: Path) -> GlmModel:
    """The body in float32; its hidden states are those of THUDM's own code."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model = GlmModel(
        GlmConfig(
            vocab_size=config["padded_vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["ffn_hidden_size"],
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["multi_query_group_num"],
            head_dim=config["kv_channels"],
            rms_norm_eps=config["layernorm_epsilon"],
            attention_bias=config.get("add_qkv_bias", False),
            max_position_embeddings=config["seq_length"],
            pad_token_id=None,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0 * config.get("rope_ratio", 1),
                "partial_rotary_factor": 0.5,
            },
        )
    ).float()
    if not config.get("post_layer_norm", True):
        model.norm = torch.nn.Identity()
    for file in sorted(directory.glob("model*.safetensors")):
        tensors = {
            name: tensor.float()
            for stored, whole in load_file(file).items()
            for name, tensor in _renamed(stored, whole, model.config).items()
        }
        unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
        assert not unknown, f"{file} holds {unknown}"
    return model


def _renamed(name: str, tensor: Tensor, config: GlmConfig) -> dict[str, Tensor]:
    """A stored tensor by transformers' names, in whose form query, key and value are tensors of their own."""
    name = name.removeprefix("transformer.")
    for theirs, ours in _RENAMED.items():
        name = name.replace(theirs, ours)
    before, found, kind = name.partition("self_attention.query_key_value.")
    if not found:
        return {name: tensor}
    rows = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    parts = torch.split(tensor, [heads * config.head_dim for heads in rows])
    return {f"{before}self_attn.{part}_proj.{kind}": one for part, one in zip("qkv", parts, strict=True)}
