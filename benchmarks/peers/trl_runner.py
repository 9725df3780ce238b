"""TRL's RewardTrainer over pairs of token ids: a runner of train.py.

AutoModelForSequenceClassification with the given head, TRL's collator (each batch padded to its longest
response), no gradient checkpointing unless asked for; other settings as train.py gives them to all.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from protocol import parse_arguments, read_head
from torch.utils.data import SequentialSampler
from transformers_steps import KeepsLosses, StepTimes, training_settings
from trl import RewardConfig, RewardTrainer


class Trainer(KeepsLosses, RewardTrainer):
    """Keeps the order of the pairs too."""

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments, pairs = parse_arguments(parser)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.model, num_labels=1, dtype=torch.float32
    )
    with torch.no_grad():
        model.score.weight.copy_(read_head(Path(arguments.model)))
    # Its vocabulary names the padding token; no text is tokenised.
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    times = StepTimes()
    trainer = Trainer(
        model=model,
        args=RewardConfig(max_length=None, **training_settings(arguments)),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[times],
    )
    trainer.train()
    times.write(arguments, trainer.losses)


if __name__ == "__main__":
    main()
