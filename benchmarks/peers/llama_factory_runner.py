"""LLaMA-Factory's reward trainer over pairs of token ids: a runner of train.py.

Its own argument parser, loader, value-head model, collator and PairwiseTrainer; only its tokenisation is
passed by. The dropout of its value head is switched off, and so is its gradient checkpointing unless asked
for; other settings as train.py gives them to all.
"""

import argparse
from typing import Any

import llama_factory_stand_ins  # noqa: F401  before the package itself
import torch
from datasets import Dataset
from llamafactory.data import PairwiseDataCollatorWithPadding, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.rm.trainer import PairwiseTrainer
from protocol import Pair, parse_arguments
from transformers_steps import KeepsLosses, StepTimes, training_settings


class Trainer(KeepsLosses, PairwiseTrainer):
    """PairwiseTrainer with its losses."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments, pairs = parse_arguments(parser)
    settings = training_settings(arguments)
    del settings["gradient_checkpointing"]
    model_words, data_words, training_words, finetuning_words, _ = get_train_args(
        {
            **settings,
            "stage": "rm",
            "do_train": True,
            "finetuning_type": "full",
            "model_name_or_path": arguments.model,
            "template": "llama2",
            "dataset": "unused",
            "cutoff_len": 1024,
            "disable_shuffling": True,
            "disable_gradient_checkpointing": not arguments.recompute,
        }
    )
    tokenizer = load_tokenizer(model_words)["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_words)
    model = load_model(tokenizer, model_words, finetuning_words, is_trainable=True, add_valuehead=True)
    model.v_head.dropout = torch.nn.Identity()
    times = StepTimes()
    trainer = Trainer(
        model=model,
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


def row_of(pair: Pair) -> dict[str, Any]:
    """The columns of its pairwise processor; labels only matter to losses of language models."""
    row: dict[str, Any] = dict.fromkeys(("images", "videos", "audios"))
    for side in ("chosen", "rejected"):
        ids = pair[f"{side}_ids"]
        row |= {f"{side}_input_ids": ids, f"{side}_attention_mask": [1] * len(ids), f"{side}_labels": ids}
    return row


if __name__ == "__main__":
    main()
