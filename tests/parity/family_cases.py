"""Tiny models of every family: a published config.json with small sizes and random weights.

A family is an entry of `CASES`. Its model is transformers' own, or one that computes the same; the files
have the names and the config.json that its authors publish.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, GlmConfig, LlamaConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from modellink_rm.model.families.registry import shape_from_config

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
# What becomes of a published config's sizes, where it names them.
TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
# Tokens of the longest of the examples that models are compared on.
LONGEST = 90
# Large, so that attention is not nearly even and a wrong angle shows.
WEIGHT_STD = 0.15
WINDOW = 16  # of the tests' sequences of up to 90 tokens
SLIDING, FULL = "sliding_attention", "full_attention"
# gpt-oss: biases of some percent of the gates and up projections are clamped, and sinks take a share of the
# attention that shows. Its steep gates multiply the rounding of float32, so weights are smaller there.
_GPT_OSS_STDS = {
    "experts.gate_up_proj": 0.075,
    "experts.gate_up_proj_bias": 3.0,
    "experts.down_proj_bias": 1.0,
    "mlp.router.weight": 0.2,
    "self_attn.sinks": 1.0,
}
Tensors = dict[str, torch.Tensor]


def own_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """transformers' configuration of that model_type."""
    return CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))


def own_names(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tensors as transformers stores them."""
    return tensors


@dataclass(frozen=True, kw_only=True)
class FamilyCase:
    """A family's tiny model.

    Attributes:
        published: name of a file in tests/fixtures/configs, without ".json".
        changes: fields of the tiny model, in addition to `TINY`.
        reference: transformers' configuration of a model that computes the same.
        stored: the tensors of that model -> as the family stores them. Gradients are converted too, so it may
            only rename, cut and join.
        remark: what else of the config is not as published.
        left_out: fields of the published config that the model does not have.
    """

    published: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[[Mapping[str, Any]], PreTrainedConfig] = own_config
    stored: Callable[[Tensors, Mapping[str, Any]], Tensors] = own_names
    remark: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def has_class(self) -> bool:
        """Whether transformers has a class that opens the family's own directories."""
        return self.reference is own_config

    @property
    def shares_prompts(self) -> bool:
        """Whether the examples' prompts can be computed once for both responses."""
        shape = shape_from_config(self.tiny_config())
        return shape.longest_with_equal_angles >= LONGEST

    def published_config(self) -> dict[str, Any]:
        """The whole config.json, without the fields that are left out."""
        config: dict[str, Any] = json.loads((CONFIGS / f"{self.published}.json").read_text())
        return {name: value for name, value in config.items() if name not in self.left_out}

    def tiny_config(self) -> dict[str, Any]:
        """The published config.json with small sizes."""
        config = self.published_config()
        return {**config, **{name: TINY[name] for name in TINY if name in config}, **self.changes}

    def model(self) -> PreTrainedModel:
        """transformers' model with one label, norms and biases off 1 and 0, in float32 and eval mode."""
        config = self.reference(self.tiny_config())
        config.num_labels = 1
        config.initializer_range = WEIGHT_STD
        torch.manual_seed(1234)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).float().eval()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "norm" in name:
                parameter.data.add_(torch.randn(parameter.shape) * 0.1)
            # A router: experts that are nearly equal would hide a wrong one.
            if name.endswith("mlp.gate.weight"):
                parameter.data.copy_(torch.randn(parameter.shape) * 0.5)
            for ending, std in _GPT_OSS_STDS.items():
                if name.endswith(ending):
                    parameter.data.copy_(torch.randn(parameter.shape) * std)
        return model

    def write(self, directory: Path, tensors: Tensors) -> None:
        """A directory of tensors with the names of the reference model, in the family's own form."""
        directory.mkdir(parents=True, exist_ok=True)
        config = self.tiny_config()
        (directory / "config.json").write_text(json.dumps(config, indent=2))
        stored = {name: tensor.contiguous().clone() for name, tensor in self.stored(tensors, config).items()}
        save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})


def _internlm2_reference(config: Mapping[str, Any]) -> PreTrainedConfig:
    # POLAR's names a kernel that is not on every machine.
    return LlamaConfig.from_dict({**config, "model_type": "llama", "attn_implementation": "eager"})


def _internlm2_tensors(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """InternLM2's names; queries, keys and values in one tensor, group by group."""
    names = {
        "model.embed_tokens": "model.tok_embeddings",
        "score": "v_head",
        "self_attn.o_proj": "attention.wo",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    stored: Tensors = {}
    for name, tensor in tensors.items():
        if "q_proj" in name:
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            by_group = [part.unflatten(0, (config["num_key_value_heads"], -1)) for part in parts]
            stored[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(by_group, 1).flatten(0, 1)
        elif "k_proj" not in name and "v_proj" not in name:
            for old, new in names.items():
                name = name.replace(old, new)
            stored[name] = tensor
    return stored


def _chatglm_reference(config: Mapping[str, Any]) -> PreTrainedConfig:
    return GlmConfig(
        vocab_size=config["padded_vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        num_hidden_layers=config["num_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["multi_query_group_num"],
        head_dim=config["kv_channels"],
        attention_bias=config["add_qkv_bias"],
        rms_norm_eps=config["layernorm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        pad_token_id=0,
    )


def _chatglm_tensors(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """THUDM's names; queries, then keys, then values in one tensor."""
    names = {
        "model.embed_tokens": "transformer.embedding.word_embeddings",
        "model.norm": "transformer.encoder.final_layernorm",
        "model.layers": "transformer.encoder.layers",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.gate_up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    }
    stored: Tensors = {}
    for name, tensor in tensors.items():
        parts = [tensor]
        new = name
        for old in names:
            new = new.replace(old, names[old])
        if "q_proj" in name:
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            new = new.replace("self_attn.q_proj", "self_attention.query_key_value")
        if "k_proj" not in name and "v_proj" not in name:
            stored[new] = torch.cat(parts)
    return stored


def _expert_tensors(names: Mapping[str, str]) -> Callable[[Tensors, Mapping[str, Any]], Tensors]:
    """A function that stores each expert on its own, as published; transformers 5 has all in one tensor.

    Args:
        names: parts of transformers' names -> of the published ones.
    """

    def stored(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
        found: Tensors = {}
        for name, tensor in tensors.items():
            for number, matrix in enumerate(tensor if ".experts." in name else ()):
                expert = name.replace(".experts.", f".experts.{number}.")
                if "gate_up_proj" in name:
                    for part, rows in zip(("gate_proj", "up_proj"), matrix.chunk(2), strict=True):
                        found[expert.replace("gate_up_proj", f"{part}.weight")] = rows
                else:
                    found[f"{expert}.weight"] = matrix
            if ".experts." not in name:
                found[name] = tensor
        for old, new in names.items():
            found = {name.replace(old, new): tensor for name, tensor in found.items()}
        return found

    return stored


_MIXTRAL_NAMES = {
    ".mlp.": ".block_sparse_moe.",
    "gate_proj.": "w1.",
    "up_proj.": "w3.",
    "down_proj.": "w2.",
}
# Positions at which the tests' sequences, of up to 90 tokens (LONGEST), meet every kind of frequency.
_LLAMA3_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_ROPE |= {"original_max_position_embeddings": 64}
_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def _long_factors(num_frequencies: int) -> dict[str, Any]:
    return {
        "type": "longrope",
        "short_factor": [1.0 + 0.05 * number for number in range(num_frequencies)],
        "long_factor": [1.0 + 0.7 * number for number in range(num_frequencies)],
    }


_DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 8,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 16,
    "moe_intermediate_size": 24,
    "num_experts_per_tok": 3,
    # Not equal, so that both the angles and the logits have a factor.
    "rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.707},
}
CASES: dict[str, FamilyCase] = {
    "llama-2": FamilyCase(published="llama-2-7b"),
    "llama-3.1": FamilyCase(
        published="llama-3.1-8b-instruct", changes={"rope_scaling": {**_LLAMA3_ROPE, "factor": 8.0}}
    ),
    "llama-3.2": FamilyCase(
        published="llama-3.2-3b-instruct", changes={"rope_scaling": {**_LLAMA3_ROPE, "factor": 32.0}}
    ),
    "llama-linear": FamilyCase(
        published="llama-2-7b",
        remark="with linear scaling",
        changes={"rope_scaling": {"type": "linear", "factor": 4.0}},
    ),
    "mistral": FamilyCase(published="mistral-7b-v0.3"),
    "mistral-window": FamilyCase(published="mistral-7b-v0.1", changes={"sliding_window": WINDOW}),
    "ministral": FamilyCase(
        published="ministral-8b",
        changes={"sliding_window": WINDOW, "layer_types": [FULL, SLIDING, SLIDING, SLIDING]},
    ),
    "qwen2": FamilyCase(published="qwen2-7b"),
    "qwen2-window": FamilyCase(
        published="qwen2-7b",
        remark="with windows",
        changes={"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen2.5-yarn": FamilyCase(published="qwen2.5-7b-instruct-yarn", changes={"rope_scaling": _YARN}),
    "qwen3": FamilyCase(published="qwen3-8b"),
    "glm": FamilyCase(published="glm-4-9b-chat-hf"),
    "glm-4-0414": FamilyCase(published="glm-4-9b-0414"),
    "gemma-2": FamilyCase(
        published="gemma-2-9b-it",
        # A scale that is not head_dim's, and a cap that bends the logits.
        changes={"sliding_window": WINDOW, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0},
    ),
    "gemma-3": FamilyCase(
        published="gemma-3-1b-it",
        remark="with linear scaling",
        changes={
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 24,
            "rope_theta": 1000.0,
            "rope_local_base_freq": 10.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},  # the 4b and larger ones have it
        },
    ),
    "olmo-2": FamilyCase(published="olmo-2-1124-7b-instruct"),
    "olmo-3": FamilyCase(
        published="olmo-3-7b-instruct",
        changes={
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING],
            "rope_scaling": {**_YARN, "rope_type": "yarn", "attention_factor": 1.2},
        },
    ),
    "chatglm3": FamilyCase(
        published="chatglm3-6b",
        changes={
            "num_layers": 4,
            "ffn_hidden_size": 96,
            "kv_channels": 16,
            "padded_vocab_size": 320,
            "seq_length": 256,
        },
        reference=_chatglm_reference,
        stored=_chatglm_tensors,
    ),
    "internlm2": FamilyCase(
        published="internlm2-7b-reward", reference=_internlm2_reference, stored=_internlm2_tensors
    ),
    "phi-3-128k": FamilyCase(
        published="phi-3-mini-128k-instruct",
        changes={"original_max_position_embeddings": 128, "rope_scaling": _long_factors(4)},
    ),
    "phi-3-window": FamilyCase(  # as the one of Phi-3-mini-4k
        published="phi-4",
        remark="with a window",
        changes={"original_max_position_embeddings": 256, "sliding_window": WINDOW},
    ),
    # Some sequences are longer than the original positions, and some are not.
    "phi-3-128k-long": FamilyCase(
        published="phi-3-mini-128k-instruct",
        remark="at long sequences",
        changes={"original_max_position_embeddings": 48, "rope_scaling": _long_factors(4)},
    ),
    "internlm2-long": FamilyCase(
        published="polar-7b",
        remark="at long sequences",
        changes={"max_position_embeddings": 48},
        reference=_internlm2_reference,
        stored=_internlm2_tensors,
    ),
    "phi-4": FamilyCase(published="phi-4", changes={"original_max_position_embeddings": 256}),
    "mixtral": FamilyCase(
        published="mixtral-8x7b",
        changes={"num_local_experts": 4},
        stored=_expert_tensors(_MIXTRAL_NAMES),
    ),
    "qwen2-moe": FamilyCase(
        published="qwen1.5-moe-a2.7b-chat",
        changes={
            "num_experts": 8,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [1],
        },
        stored=_expert_tensors({}),
    ),
    "qwen3-moe": FamilyCase(
        published="qwen3-30b-a3b",
        changes={"num_experts": 16, "moe_intermediate_size": 24},
        stored=_expert_tensors({}),
    ),
    "gpt-oss": FamilyCase(
        published="gpt-oss-20b",
        remark="dequantized",
        changes={
            "num_local_experts": 8,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, FULL, SLIDING, FULL],
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "original_max_position_embeddings": 64,
                "truncate": False,
            },
        },
        left_out=("quantization_config",),
    ),
    "deepseek-v2-lite": FamilyCase(
        published="deepseek-v2-lite",
        changes=_DEEPSEEK,
        stored=_expert_tensors({}),
    ),
    "deepseek-v2": FamilyCase(
        published="deepseek-v2-lite",
        remark="with latent queries and groups of experts, as DeepSeek-V2",
        changes={
            **_DEEPSEEK,
            "q_lora_rank": 40,
            "v_head_dim": 28,  # above the 24 of queries and keys
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "rms_norm_eps": 1e-3,  # which is not that of the latent vectors
        },
        stored=_expert_tensors({}),
    ),
    "phi-4-mini": FamilyCase(
        published="phi-4-mini-instruct",
        changes={
            "hidden_size": 128,
            "original_max_position_embeddings": 128,
            "rope_scaling": _long_factors(6),
        },
    ),
}
