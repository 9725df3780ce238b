"""LLaMA-Factory's DPO over pairs of token ids: a runner of dpo_parity.py.

Its own argument parser, loader, collator, reference model and CustomDPOTrainer; only its tokenisation is
passed by. Other settings as dpo_parity.py gives them to all. The result holds the mean implicit rewards and
the gradient norm of every step too.

With the TRL that llamafactory 0.9.5 asks for (0.24) its losses hinge and ipo are those of sigmoid: it calls
TRL's `dpo_loss` without the type of the loss (train/dpo/trainer.py, compute_preference_loss).
"""

from typing import Any

import llama_factory_stand_ins  # noqa: F401  before the package itself
import torch
from datasets import Dataset
from dpo_protocol import add_logged_metrics, dpo_parser, sequence_columns
from llamafactory.data import PairwiseDataCollatorWithPadding, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from llamafactory.train.trainer_utils import create_ref_model
from protocol import Pair, parse_arguments
from transformers_steps import KeepsLosses, StepTimes, training_settings


class Trainer(KeepsLosses, CustomDPOTrainer):
    """CustomDPOTrainer with its losses."""


def main() -> None:
    arguments, pairs = parse_arguments(dpo_parser(__doc__))
    settings = {**training_settings(arguments), "logging_strategy": "steps", "logging_steps": 1}
    del settings["gradient_checkpointing"]
    model_words, data_words, training_words, finetuning_words, _ = get_train_args(
        {
            **settings,
            "stage": "dpo",
            "do_train": True,
            "finetuning_type": "full",
            "model_name_or_path": arguments.model,
            "template": "llama2",
            "dataset": "unused",
            "cutoff_len": 1024,
            "disable_shuffling": True,
            "disable_gradient_checkpointing": not arguments.recompute,
            "pref_loss": arguments.loss_type,
            "pref_beta": arguments.beta,
            "pref_ftx": arguments.pref_ftx,
            "dpo_label_smoothing": arguments.label_smoothing,
            "simpo_gamma": arguments.simpo_gamma,
        }
    )
    tokenizer = load_tokenizer(model_words)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_words)
    model = load_model(tokenizer, model_words, finetuning_words, is_trainable=True)
    has_reference = finetuning_words.use_ref_model
    times = StepTimes()
    trainer = Trainer(
        model=model,
        ref_model=create_ref_model(model_words, finetuning_words) if has_reference else None,
        args=training_words,
        finetuning_args=finetuning_words,
        data_collator=PairwiseDataCollatorWithPadding(
            template=template, model=model, pad_to_multiple_of=8, tokenizer=tokenizer
        ),
        callbacks=[times],
        train_dataset=Dataset.from_list([row_of(pair) for pair in pairs]),
        tokenizer=tokenizer,
        processor=None,
    )
    trainer.train()
    times.write(arguments, trainer.losses)
    add_logged_metrics(arguments, trainer.state.log_history)


def row_of(pair: Pair) -> dict[str, Any]:
    """The columns of its pairwise processor."""
    return {**dict.fromkeys(("images", "videos", "audios")), **sequence_columns(pair)}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
