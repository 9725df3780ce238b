"""TRL's RewardTrainer goes on from an exported directory for a step: the runner of export_in_trl.py.

Conversations are rendered by the directory's own chat template, as TRL does it. The result is the loss of the
step, and the scores of the chosen answers by the model that TRL then saves.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from trl import RewardConfig, RewardTrainer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="json list of chosen and rejected messages")
    parser.add_argument("--save", required=True, help="directory for the model after the step")
    parser.add_argument("--output", type=Path, required=True, help="file for the result")
    arguments = parser.parse_args()
    pairs = json.loads(arguments.pairs.read_text())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.model, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    settings = RewardConfig(
        output_dir=arguments.save,
        per_device_train_batch_size=len(pairs),
        max_steps=1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_dropout=True,
        max_length=None,
    )
    trainer = RewardTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(arguments.save)
    (loss,) = (row["loss"] for row in trainer.state.log_history if "loss" in row)
    model.eval()
    scores = []
    for pair in pairs:
        text = tokenizer.apply_chat_template(pair["chosen"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores.append(model(input_ids=ids).logits.item())
    arguments.output.write_text(json.dumps({"loss": loss, "scores": scores}))


if __name__ == "__main__":
    main()
