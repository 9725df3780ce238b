"""TRL's PRMTrainer over responses in steps: a runner of process_rewards.py.

AutoModelForTokenClassification with the head of the directory, TRL's collator, labels at the last token of
each step. TRL 1.13.0 is the last release that has the trainer (trl.experimental.prm).
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers_steps import KeepsLosses, training_settings
from trl.experimental.prm import PRMConfig, PRMTrainer


class Trainer(KeepsLosses, PRMTrainer):
    """Keeps the order of the responses too."""

    def _get_train_sampler(self, *arguments: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", required=True, help="Hugging Face directory with score.weight and score.bias"
    )
    parser.add_argument("--responses", type=Path, required=True, help="json list of input_ids and labels")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="responses of a step")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True, help="file for the losses")
    parser.set_defaults(device="cpu", bf16=False, recompute=False)
    arguments = parser.parse_args()
    arguments.micro_batch_size = arguments.batch_size
    model = transformers.AutoModelForTokenClassification.from_pretrained(arguments.model, dtype=torch.float32)
    trainer = Trainer(
        model=model,
        args=PRMConfig(max_length=None, **training_settings(arguments)),
        train_dataset=Dataset.from_list(json.loads(arguments.responses.read_text())),
        # Its vocabulary names the padding token; no text is tokenised.
        processing_class=transformers.AutoTokenizer.from_pretrained(arguments.model),
    )
    trainer.train()
    arguments.output.write_text(json.dumps({"losses": [float(loss) for loss in trainer.losses]}))


if __name__ == "__main__":
    main()
