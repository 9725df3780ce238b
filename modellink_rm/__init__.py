"""Train and serve reward models on megatron-core."""

__version__ = "0.2.0.dev0"
