"""Functions that read the fields of config.json about experts."""

from modellink_rm.base.errors import UserError
from modellink_rm.experts.shape import Experts
from modellink_rm.model.families.family import Config
from modellink_rm.model.families.fields import check_values, numbers_of


def aux_loss_coef(config: Config) -> float:
    """The weight of the load-balancing loss: as in transformers, router_aux_loss_coef counts only where
    output_router_logits is true.
    """
    check_values(config, {"output_router_logits": (None, True, False)})
    if not config.get("output_router_logits"):
        return 0.0
    return float(numbers_of(config, {"router_aux_loss_coef": float})["router_aux_loss_coef"])


def num_experts(config: Config) -> int:
    """The experts of a layer; transformers 5 writes num_local_experts where num_experts was published."""
    name = "num_experts" if config.get("num_experts") is not None else "num_local_experts"
    return int(numbers_of(config, {name: int})[name])


def qwen_experts(config: Config, *, has_shared: bool) -> Experts:
    """The experts of Qwen2-MoE and Qwen3-MoE (transformers 5, models/qwen2_moe and models/qwen3_moe).

    Raises:
        UserError: a field is missing or has a value that is not supported, or no layer has experts.
    """
    sizes = {"moe_intermediate_size": int, "num_experts_per_tok": int}
    sizes |= {"shared_expert_intermediate_size": int} if has_shared else {}
    numbers = numbers_of(config, sizes)
    # Required: the default of transformers is false, and most of the published models have true.
    if not isinstance(config.get("norm_topk_prob"), bool):
        raise UserError(f"norm_topk_prob must be true or false, got {config.get('norm_topk_prob')!r}")
    return Experts(
        number=num_experts(config),
        ffn_hidden_size=numbers["moe_intermediate_size"],
        top_k=numbers["num_experts_per_tok"],
        normalizes_weights=config["norm_topk_prob"],
        shared_ffn_hidden_size=numbers["shared_expert_intermediate_size"] if has_shared else 0,
        has_shared_gate=has_shared,
        dense_layers=_dense_layers(config),
        aux_loss_coef=aux_loss_coef(config),
    )


def _dense_layers(config: Config) -> tuple[int, ...]:
    """The layers of mlp_only_layers, and those that decoder_sparse_step leaves out."""
    num_layers = numbers_of(config, {"num_hidden_layers": int})["num_hidden_layers"]
    step = numbers_of({"decoder_sparse_step": 1, **config}, {"decoder_sparse_step": int})[
        "decoder_sparse_step"
    ]
    named = config.get("mlp_only_layers") or []
    if step < 1 or not isinstance(named, list) or not all(type(layer) is int for layer in named):
        raise UserError(
            f"decoder_sparse_step {step!r} and mlp_only_layers {named!r} must be a number from 1 and a list "
            "of layers"
        )
    dense = tuple(layer for layer in range(num_layers) if layer in named or (layer + 1) % step)
    if len(dense) == num_layers:
        raise UserError("no layer has experts by decoder_sparse_step and mlp_only_layers")
    return dense
