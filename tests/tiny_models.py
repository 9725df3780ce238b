"""Tiny Hugging Face directories with seeded random weights: no tokenizer, nothing downloaded.

Norms and biases are moved off 1 and 0, so that a wrong or forgotten one shows. Every maker returns
the transformers model whose weights it wrote, in eval mode and float32.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GlmConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
)

# Heads: eight, in four groups (two for GLM), so that tensor parallel 4 and 8 meet shared groups too.
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.05,
}
GLM_SHAPE: dict[str, Any] = {
    **SHAPE,
    "num_key_value_heads": 2,
    "head_dim": 16,  # not hidden size / heads
    "attention_bias": True,
}
# A file no larger than this: a tiny model makes several shards.
SHARD_BYTES = 60_000
KINDS = {"causal_lm": AutoModelForCausalLM, "score": AutoModelForSequenceClassification, "body": AutoModel}


def write_tiny_llama(directory: Path, **options: Any) -> PreTrainedModel:
    """Llama 2/3; `options` are those of `write_model`, and fields of the config."""
    return write_model(directory, LlamaConfig, SHAPE, **options)


def write_tiny_mistral(directory: Path, **options: Any) -> PreTrainedModel:
    """Mistral without a sliding window."""
    return write_model(directory, MistralConfig, {**SHAPE, "sliding_window": None}, **options)


def write_tiny_qwen2(directory: Path, **options: Any) -> PreTrainedModel:
    """Qwen2: biases of q, k and v."""
    return write_model(directory, Qwen2Config, SHAPE, **options)


def write_tiny_glm(directory: Path, **options: Any) -> PreTrainedModel:
    """GLM-4 in transformers' own form: half of each head rotated, interleaved; fused gate and up."""
    return write_model(directory, GlmConfig, GLM_SHAPE, **options)


def write_tiny_mixtral(directory: Path, **options: Any) -> PreTrainedModel:
    """Mixtral: four experts in every layer, two for a token."""
    fields = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    return write_model(directory, MixtralConfig, {**SHAPE, **fields}, **options)


def write_tiny_qwen2_moe(directory: Path, **options: Any) -> PreTrainedModel:
    """Qwen2-MoE: an ordinary second layer; elsewhere eight experts, and one of every token with a gate."""
    fields = {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "mlp_only_layers": [1],
    }
    return write_model(directory, Qwen2MoeConfig, {**SHAPE, **fields}, **options)


def write_tiny_gpt_oss(directory: Path, **options: Any) -> PreTrainedModel:
    """gpt-oss: sinks, windows, and four experts with biases, two for a token."""
    fields = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16}
    return write_model(directory, GptOssConfig, {**SHAPE, **fields}, **options)


def write_model(
    directory: Path,
    config_class: type,
    shape: dict[str, Any],
    *,
    kind: str = "causal_lm",
    value_head: bool = False,
    sharded: bool = False,
    seed: int = 1234,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> PreTrainedModel:
    """Write a model of transformers' own and return it.

    Args:
        kind: "causal_lm", "score" (ForSequenceClassification with one label), or "body" (AutoModel,
            whose names have no prefix).
        value_head: write LLaMA-Factory's value_head.safetensors beside the weights.
        sharded: several files and an index.
        dtype: what the files hold.
    """
    model = random_model(config_class, {**shape, **overrides}, kind=kind, seed=seed)
    model.to(dtype).save_pretrained(directory, max_shard_size=SHARD_BYTES if sharded else "5GB")
    if value_head:
        write_value_head(directory, model.config.hidden_size, seed=seed)
    return model.float()


def random_model(config_class: type, fields: dict[str, Any], *, kind: str, seed: int) -> PreTrainedModel:
    """A seeded model whose norms and biases are off 1 and 0."""
    config = config_class(**fields, **({"num_labels": 1} if kind == "score" else {}))
    torch.manual_seed(seed)
    model = KINDS[kind].from_config(config).float().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data.add_(torch.randn(parameter.shape) * 0.1)
        if name.endswith("gate.weight"):  # zeros in transformers, with which every expert is equally good
            parameter.data.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def write_value_head(
    directory: Path, hidden_size: int, *, seed: int = 1234, bias: float | None = 0.25
) -> None:
    """LLaMA-Factory's reward head, weight [1, h] and, unless it is None, bias [1]."""
    generator = torch.Generator().manual_seed(seed)
    head = {
        "v_head.summary.weight": torch.randn(1, hidden_size, generator=generator) * 0.05,
    }
    if bias is not None:
        head["v_head.summary.bias"] = torch.tensor([bias])
    save_file(head, directory / "value_head.safetensors", metadata={"format": "pt"})


def write_tiny_chatglm(
    directory: Path,
    *,
    kind: str = "causal_lm",
    value_head: bool = False,
    sharded: bool = False,
    seed: int = 1234,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> PreTrainedModel:
    """ChatGLM2/3 as THUDM writes it, from transformers' GLM of the same architecture, which is returned.

    Args:
        kind: "causal_lm" (with transformer.output_layer), or "score" (with a score.weight).
        overrides: fields of `GlmConfig`, or of THUDM's config.json.
    """
    glm_fields = {name: overrides.pop(name) for name in list(overrides) if name in GLM_SHAPE}
    # ChatGLM3 and GLM-4 multiply the rotary base by their rope_ratio.
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0 * overrides.get("rope_ratio", 1),
        "partial_rotary_factor": 0.5,
    }
    fields = {**GLM_SHAPE, "rope_parameters": rope, **glm_fields}
    model = random_model(GlmConfig, fields, kind=kind, seed=seed).to(dtype)
    directory.mkdir(parents=True, exist_ok=True)
    config = {**_chatglm_config(model.config), **overrides}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    _save(directory, _chatglm_tensors(model), sharded=sharded)
    if value_head:
        write_value_head(directory, model.config.hidden_size, seed=seed)
    return model.float()


def _chatglm_config(config: GlmConfig) -> dict[str, Any]:
    """The fields of THUDM/chatglm3-6b's config.json."""
    return {
        "_name_or_path": "THUDM/chatglm3-6b",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": config.attention_bias,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": config.intermediate_size,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": config.hidden_size,
        "kv_channels": config.head_dim,
        "layernorm_epsilon": config.rms_norm_eps,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_key_value_heads,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "original_rope": True,
        "padded_vocab_size": config.vocab_size,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": config.max_position_embeddings,
        "use_cache": True,
        "torch_dtype": "float32",
        "transformers_version": "4.27.1",
        "tie_word_embeddings": False,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def _chatglm_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """THUDM's names and layouts: [q; k; v] in one tensor, [gate; up] in one."""
    weights = {name.removeprefix("model."): tensor for name, tensor in model.state_dict().items()}
    tensors = {
        "transformer.embedding.word_embeddings.weight": weights["embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": weights["norm.weight"],
        "transformer.rotary_pos_emb.inv_freq": torch.ones(model.config.head_dim // 4),
    }
    if "lm_head.weight" in weights:
        tensors["transformer.output_layer.weight"] = weights["lm_head.weight"].clone()
    if "score.weight" in weights:
        tensors["score.weight"] = weights["score.weight"]
    for layer in range(model.config.num_hidden_layers):
        ours, theirs = f"transformer.encoder.layers.{layer}", f"layers.{layer}"
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            tensors[f"{ours}.{name}"] = weights[f"{theirs}.{name}"]
        for kind in ("weight", "bias") if model.config.attention_bias else ("weight",):
            tensors[f"{ours}.self_attention.query_key_value.{kind}"] = torch.cat(
                [weights[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
        tensors[f"{ours}.self_attention.dense.weight"] = weights[f"{theirs}.self_attn.o_proj.weight"]
        tensors[f"{ours}.mlp.dense_h_to_4h.weight"] = weights[f"{theirs}.mlp.gate_up_proj.weight"]
        tensors[f"{ours}.mlp.dense_4h_to_h.weight"] = weights[f"{theirs}.mlp.down_proj.weight"]
    return tensors


def _save(directory: Path, tensors: dict[str, torch.Tensor], *, sharded: bool) -> None:
    """One file, or two with an index."""
    if not sharded:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, start=1):
        shard = f"model-{number:05d}-of-{len(halves):05d}.safetensors"
        save_file({name: tensors[name] for name in half}, directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
