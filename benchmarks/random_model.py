"""Random weights of a Llama-shaped model in a Hugging Face directory, for measuring at sizes of use."""

import json
import shutil
from pathlib import Path

# The small one is for tables that go to long sequences; the others are the shapes of Llama 3.2 1B and 3B
# and of Llama 3.1 8B, with the vocabulary of the data's tokenizer.
SHAPES = {
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8},
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
    },
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
}


def write_random_model(name: str, directory: Path, *, device: str, tokenizer_of: Path) -> None:
    """Seeded bfloat16 weights, a value head, and the tokenizer's files of another directory."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        num_key_value_heads=4 if name == "small" else 8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        **SHAPES[name],
    )
    torch.manual_seed(1234)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    head = torch.randn(1, config.hidden_size, generator=torch.Generator().manual_seed(7)) * 0.02
    save_file(
        {"v_head.summary.weight": head, "v_head.summary.bias": torch.zeros(1)},
        directory / "value_head.safetensors",
        metadata={"format": "pt"},
    )
    for path in tokenizer_of.glob("tokenizer*"):
        shutil.copy(path, directory)


def write_random_adapter(model: Path, directory: Path, *, rank: int, trains_head: bool = True) -> None:
    """PEFT's directory of adapters of all linear layers, as PEFT begins with them.

    Args:
        trains_head: the model is a reward model, whose value head is in the directory too.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(11)
    tensors = {}
    for path in sorted(model.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                if not name.endswith("_proj.weight"):
                    continue
                rows, columns = file.get_slice(name).get_shape()
                stored = f"base_model.model.{name.removesuffix('.weight')}"
                bound = columns**-0.5
                a = (2 * torch.rand(rank, columns, generator=generator) - 1) * bound
                tensors |= {f"{stored}.lora_A.weight": a, f"{stored}.lora_B.weight": torch.zeros(rows, rank)}
    if trains_head:
        head = load_file(model / "value_head.safetensors")["v_head.summary.weight"]
        tensors["base_model.model.score.weight"] = head
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if trains_head else "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "modules_to_save": ["score"] if trains_head else None,
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
