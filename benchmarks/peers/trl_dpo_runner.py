"""TRL's DPOTrainer over pairs of token ids: a runner of train.py --stage dpo.

AutoModelForCausalLM, TRL's collator (each batch padded to its longest response), the reference's
log-probabilities computed before training, so that no second model is held; other settings as train.py gives
them to all. The loss simpo is that of TRL's CPOTrainer. The result holds the mean implicit rewards and the
gradient norm of every step too.
"""

import argparse
from typing import Any

import torch
import transformers
from datasets import Dataset
from dpo_protocol import add_logged_metrics, dpo_parser, sequence_columns
from protocol import Pair, parse_arguments
from torch.utils.data import SequentialSampler
from transformers_steps import KeepsLosses, StepTimes, training_settings
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer


class Policy(KeepsLosses, DPOTrainer):
    """Keeps the order of the pairs too, which are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class PolicyWithoutReference(KeepsLosses, CPOTrainer):
    """The same of a loss without a reference."""

    def tokenize_row(self, feature: dict[str, Any], *arguments: Any) -> dict[str, Any]:
        return feature

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    arguments, pairs = parse_arguments(dpo_parser(__doc__))
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if arguments.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True)
    times = StepTimes()
    words = {
        "model": model,
        # Its vocabulary names the padding token; no text is tokenised.
        "processing_class": transformers.AutoTokenizer.from_pretrained(arguments.model),
        "callbacks": [times],
    }
    settings = {**training_settings(arguments), "logging_strategy": "steps", "logging_steps": 1}
    make = without_reference if arguments.loss_type == "simpo" else with_reference
    trainer = make(arguments, pairs, words, settings)
    trainer.train()
    times.write(arguments, trainer.losses)
    add_logged_metrics(arguments, trainer.state.log_history)


def with_reference(
    arguments: argparse.Namespace, pairs: list[Pair], words: dict[str, Any], settings: dict[str, Any]
) -> Policy:
    return Policy(
        args=DPOConfig(
            max_length=None,
            beta=arguments.beta,
            # sft is the mean over all tokens of the chosen answers of a batch: of one pair it is pref_ftx.
            loss_type=[arguments.loss_type, *(["sft"] if arguments.pref_ftx else [])],
            loss_weights=[1.0, *([arguments.pref_ftx] if arguments.pref_ftx else [])],
            label_smoothing=arguments.label_smoothing,
            precompute_ref_log_probs=True,
            **settings,
        ),
        train_dataset=Dataset.from_list([answers_of(pair) for pair in pairs]),
        **words,
    )


def without_reference(
    arguments: argparse.Namespace, pairs: list[Pair], words: dict[str, Any], settings: dict[str, Any]
) -> PolicyWithoutReference:
    return PolicyWithoutReference(
        args=CPOConfig(
            max_length=1 << 20,
            beta=arguments.beta,
            loss_type=arguments.loss_type,
            cpo_alpha=0.0,
            simpo_gamma=arguments.simpo_gamma,
            **settings,
        ),
        train_dataset=Dataset.from_list([sequences_of(pair) for pair in pairs]),
        **words,
    )


def answers_of(pair: Pair) -> dict[str, list[int]]:
    """The pair as DPOTrainer's collator takes it: a prompt, and answers without it."""
    number = pair["num_prompt_tokens"]
    return {
        "prompt_ids": pair["chosen_ids"][:number],
        "chosen_ids": pair["chosen_ids"][number:],
        "rejected_ids": pair["rejected_ids"][number:],
    }


def sequences_of(pair: Pair) -> dict[str, Any]:
    """The pair as CPOTrainer's collator takes it, and texts that it looks for before."""
    return {"prompt": "", "chosen": "", "rejected": "", **sequence_columns(pair)}


if __name__ == "__main__":
    main()
