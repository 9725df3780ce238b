"""TRL's RewardTrainer over pairs of token ids: a runner of train.py.

AutoModelForSequenceClassification with the given head, TRL's collator (each batch padded to its longest
response), no gradient checkpointing unless asked for; other settings as train.py gives them to all. Where
config.json has output_router_logits, transformers' load-balancing loss of each pair is added with its weight:
neither TRL's RewardTrainer nor the model with a score does it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from protocol import parse_arguments, read_head
from torch.utils.data import SequentialSampler
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers_steps import KeepsLosses, StepTimes, training_settings
from trl import RewardConfig, RewardTrainer


class BalancesRouters:
    """Adds the mean over pairs of their load-balancing loss; before a Trainer in the list of bases."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **words: Any) -> Any:
        if not getattr(model.config, "output_router_logits", False):
            return super().compute_loss(model, inputs, *arguments, **words)  # type: ignore[misc]
        logits: list[torch.Tensor] = []
        routers = [module for module in model.modules() if type(module).__name__.endswith("TopKRouter")]
        hooks = [
            router.register_forward_hook(lambda module, given, output: logits.append(output[0]))
            for router in routers
        ]
        result = super().compute_loss(model, inputs, *arguments, **words)  # type: ignore[misc]
        for hook in hooks:
            hook.remove()
        mask = inputs["attention_mask"]  # chosen responses, then rejected ones
        pairs = torch.arange(len(mask)).view(2, -1).T
        by_layer = [layer.view(*mask.shape, -1) for layer in logits]
        losses = [
            load_balancing_loss_func(
                tuple(layer[pair].flatten(0, 1) for layer in by_layer),
                by_layer[0].shape[-1],
                model.config.num_experts_per_tok,
                mask[pair],
            )
            for pair in pairs
        ]
        balance = model.config.router_aux_loss_coef * torch.stack(losses).mean()
        if isinstance(result, tuple):
            return result[0] + balance, *result[1:]
        return result + balance


class Trainer(BalancesRouters, KeepsLosses, RewardTrainer):
    """Keeps the order of the pairs too."""

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--centering-weight", type=float, help="TRL's center_rewards_coefficient")
    parser.add_argument("--adapter", help="PEFT's directory: train it and the head alone")
    arguments, pairs = parse_arguments(parser)
    is_frozen_bf16 = arguments.adapter and arguments.bf16
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.model, num_labels=1, dtype=torch.bfloat16 if is_frozen_bf16 else torch.float32
    )
    with torch.no_grad():
        model.score.weight.copy_(read_head(Path(arguments.model)))
    if arguments.adapter:
        from peft import PeftModel

        if arguments.recompute:
            model.enable_input_require_grads()
        model = PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    # Its vocabulary names the padding token; no text is tokenised.
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    times = StepTimes()
    trainer = Trainer(
        model=model,
        args=RewardConfig(
            max_length=None,
            center_rewards_coefficient=arguments.centering_weight,
            **training_settings(arguments),
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[times],
    )
    trainer.train()
    times.write(arguments, trainer.losses)


if __name__ == "__main__":
    main()
