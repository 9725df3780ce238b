"""The engine's tensors, from a model of transformers, without this package's tables."""

import torch
from transformers import PreTrainedModel


def engine_tensors_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The engine's whole tensors, built head by head from the tensors of a transformers model."""
    config, body = model.config, model.base_model
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // config.num_key_value_heads
    embedding = body.embed_tokens.weight
    tensors = {
        "embedding.word_embeddings.weight": torch.cat(
            [embedding, torch.zeros(384 - len(embedding), embedding.shape[1])]
        ),
        "decoder.final_layernorm.weight": body.norm.weight,
    }
    for number, layer in enumerate(body.layers):
        prefix, attention, mlp = f"decoder.layers.{number}", layer.self_attn, layer.mlp
        for kind in ("weight", "bias") if attention.q_proj.bias is not None else ("weight",):
            query, key, value = (
                getattr(projection, kind).split(size)
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            rows: list[torch.Tensor] = []
            for group in range(config.num_key_value_heads):
                rows += [*query[group * shared : (group + 1) * shared], key[group], value[group]]
            tensors[f"{prefix}.self_attention.linear_qkv.{kind}"] = torch.cat(rows)
        gate_up = (
            mlp.gate_up_proj.weight
            if hasattr(mlp, "gate_up_proj")
            else torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        )
        tensors |= {
            f"{prefix}.input_layernorm.weight": layer.input_layernorm.weight,
            f"{prefix}.self_attention.linear_proj.weight": attention.o_proj.weight,
            f"{prefix}.pre_mlp_layernorm.weight": layer.post_attention_layernorm.weight,
            f"{prefix}.mlp.linear_fc1.weight": gate_up,
            f"{prefix}.mlp.linear_fc2.weight": mlp.down_proj.weight,
        }
    return {name: tensor.detach() for name, tensor in tensors.items()}
