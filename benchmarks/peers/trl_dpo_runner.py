"""TRL's DPOTrainer over pairs of token ids: a runner of train.py --stage dpo.

AutoModelForCausalLM, TRL's collator (each batch padded to its longest response), the reference's
log-probabilities computed before training, so that no second model is held; other settings as train.py gives
them to all. The result holds the mean implicit rewards and the gradient norm of every step too.
"""

import argparse
import json
from typing import Any

import torch
import transformers
from datasets import Dataset
from protocol import parse_arguments
from torch.utils.data import SequentialSampler
from transformers_steps import KeepsLosses, StepTimes, training_settings
from trl import DPOConfig, DPOTrainer


class Trainer(KeepsLosses, DPOTrainer):
    """Keeps the order of the pairs too, which are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--loss-type", default="sigmoid")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    arguments, pairs = parse_arguments(parser)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    # Its vocabulary names the padding token; no text is tokenised.
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    times = StepTimes()
    settings = {**training_settings(arguments), "logging_strategy": "steps", "logging_steps": 1}
    trainer = Trainer(
        model=model,
        args=DPOConfig(
            max_length=None,
            beta=arguments.beta,
            loss_type=[arguments.loss_type],
            label_smoothing=arguments.label_smoothing,
            precompute_ref_log_probs=True,
            **settings,
        ),
        train_dataset=Dataset.from_list([answers_of(pair) for pair in pairs]),
        processing_class=tokenizer,
        callbacks=[times],
    )
    trainer.train()
    times.write(arguments, trainer.losses)
    add_metrics(arguments, trainer.state.log_history)


def answers_of(pair: dict[str, Any]) -> dict[str, list[int]]:
    """The pair as DPOTrainer's collator takes it: a prompt, and answers without it."""
    number = pair["num_prompt_tokens"]
    return {
        "prompt_ids": pair["chosen_ids"][:number],
        "chosen_ids": pair["chosen_ids"][number:],
        "rejected_ids": pair["rejected_ids"][number:],
    }


def add_metrics(arguments: argparse.Namespace, history: list[dict[str, float]]) -> None:
    """Add what TRL logged of every step to the result."""
    rows = [row for row in history if "grad_norm" in row]
    names = {
        "chosen_rewards": "rewards/chosen",
        "rejected_rewards": "rewards/rejected",
        "grad_norms": "grad_norm",
    }
    result = json.loads(arguments.output.read_text())
    result |= {name: [row[logged] for row in rows] for name, logged in names.items()}
    arguments.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
