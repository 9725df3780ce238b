"""Adapters in PEFT's form: a directory with adapter_config.json and adapter_model.safetensors."""
