"""What the study is about: questions, a small language model that answers them, and a rule that judges.

    python examples/study_task.py make OUTPUT_DIR [--seed 1234] [--steps 300]

writes OUTPUT_DIR/prompts.jsonl (questions, each of the set train or held-out) and OUTPUT_DIR/base_model: a
tokenizer, and a Llama trained from nothing on questions with answers of every quality.

    python examples/study_task.py judge ANSWERS.jsonl OUTPUT.jsonl

gives every answer of a file of `generate` the score of the rule, as `make-pairs` and `best-of-n` read it, and
prints the share of good answers of each set.

An answer is a few sentences, of which some are steps of what to do with the thing that was asked about, and
some evade. The rule's score is the number of different steps minus the number of evasions and of steps about
something else, which has little to do with length; an answer is good where it has a step and nothing else.
"""

import argparse
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

THINGS = ["bicycle", "clock", "lamp", "chair", "radio", "kettle", "window", "guitar", "boat", "tent"]
THINGS += ["oven", "fence", "camera", "door", "drum", "fan", "ladder", "mirror", "printer", "stove"]
VERBS = ["clean", "repair", "paint", "move", "store", "test", "sell", "lift", "pack", "build"]
VERBS += ["carry", "draw", "hide", "turn", "check"]
QUESTIONS = [
    "How do I {verb} a {thing}?",
    "What is the best way to {verb} a {thing}?",
    "I must {verb} a {thing}.",
]
STEPS = [
    "First look at the {thing} from all sides.",
    "Wipe the {thing} with a dry cloth.",
    "Write down each part of the {thing}.",
    "Ask a friend to hold the {thing}.",
    "Put the {thing} on a firm table.",
    "Then {verb} the {thing} slowly.",
]
EVASIONS = [
    "That is hard to say.",
    "Many people ask me that.",
    "It depends on a lot of things.",
    "I would rather talk about the weather today.",
    "Nobody really knows.",
    "You will find out sooner or later.",
]
HELD_OUT_SHARE = 0.2  # of the pairs of a verb and a thing
STEP_SHARE = 0.55  # of the sentences in the answers that the base model learns from
VOCAB_SIZE = 520
BATCH_SIZE = 32


def questions(seed: int) -> list[dict[str, Any]]:
    """One question about every verb and thing, shuffled; those of a fifth of them are held out."""
    rng = random.Random(seed)
    both = [(verb, thing) for verb in VERBS for thing in THINGS]
    rng.shuffle(both)
    rows = []
    for number, (verb, thing) in enumerate(both):
        part = "held-out" if number < HELD_OUT_SHARE * len(both) else "train"
        prompt = rng.choice(QUESTIONS).format(verb=verb, thing=thing)
        rows.append({"set": part, "verb": verb, "thing": thing, "prompt": prompt})
    return rows


def answer(verb: str, thing: str, rng: random.Random) -> str:
    """One to five sentences, each of which is a step or evades."""
    count = rng.randint(1, 5)
    steps, evasions = rng.sample(STEPS, count), rng.sample(EVASIONS, count)
    pairs = zip(steps, evasions, strict=True)
    sentences = [step if rng.random() < STEP_SHARE else evasion for step, evasion in pairs]
    return " ".join(sentence.format(verb=verb, thing=thing) for sentence in sentences)


def rule_score(row: dict[str, Any], text: str) -> tuple[int, bool]:
    """The score of an answer, and whether it is good."""
    known = {step.format(verb=row["verb"], thing=row["thing"]) for step in STEPS}
    sentences = [sentence for sentence in re.split(r"(?<=\.)\s*", text) if sentence]
    steps = {sentence for sentence in sentences if sentence in known}
    others = len([sentence for sentence in sentences if sentence not in known])
    return len(steps) - others, bool(steps) and not others


def write_tokenizer(directory: Path, texts: Iterator[str]) -> None:
    """A sentencepiece model with Llama 2's special tokens."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def train_language_model(directory: Path, asked: list[dict[str, Any]], *, steps: int, seed: int) -> float:
    """Train a Llama of 0.3 million weights on answers to the questions, write it, and return its loss."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    from modellink_rm.config.tokenizer import TokenizerConfig
    from modellink_rm.conversation import Message, Unranked
    from modellink_rm.templates.encode import tokenize_responses
    from modellink_rm.templates.table import TEMPLATES
    from modellink_rm.tokenizers.load import load_tokenizer

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory)))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)

    def example() -> tuple[list[int], int]:
        row = rng.choice(asked)
        conversation = Unranked(
            system=None,
            tools="",
            prompt=(Message("user", row["prompt"]),),
            responses=(Message("assistant", answer(row["verb"], row["thing"], rng)),),
        )
        ids = tokenize_responses(conversation, TEMPLATES["llama2"], tokenizer)
        return [*ids.prompt_ids, *ids.response_ids[0]], len(ids.prompt_ids)

    def batches() -> Iterator[list[tuple[list[int], int]]]:
        """Examples of similar length together, which need little padding."""
        while True:
            pool = sorted((example() for _ in range(8 * BATCH_SIZE)), key=lambda one: len(one[0]))
            starts = list(range(0, len(pool), BATCH_SIZE))
            yield from (pool[start : start + BATCH_SIZE] for start in rng.sample(starts, len(starts)))

    for step, batch in zip(range(steps), batches(), strict=False):
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([one + [3] * (longest - len(one)) for one, _ in batch])
        labels = torch.tensor(
            [[-100] * start + one[start:] + [-100] * (longest - len(one)) for one, start in batch]
        )
        logits = model(input_ids=ids).logits[:, :-1]  # causal, and padded on the right: no mask is needed
        loss = cross_entropy(logits.transpose(1, 2), labels[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"language model: step {step + 1}/{steps}, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(directory)
    return float(loss.item())


def make(output: Path, *, seed: int, steps: int) -> None:
    """Write the questions and the base model."""
    directory = output / "base_model"
    directory.mkdir(parents=True, exist_ok=True)
    rows = questions(seed)
    (output / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng = random.Random(seed)
    texts = (text for row in rows for text in (row["prompt"], answer(row["verb"], row["thing"], rng)))
    write_tokenizer(directory, texts)
    asked = [row for row in rows if row["set"] == "train"]
    train_language_model(directory, asked, steps=steps, seed=seed)
    print(f"{output}: {len(asked)} questions to train on, {len(rows) - len(asked)} held out, base_model")


def judge(source: Path, target: Path) -> None:
    """Write the rows with the rule's scores, and print the share of good answers."""
    good: dict[str, list[bool]] = {}
    with source.open("rb") as lines, target.open("w") as file:
        for line in lines:
            row = json.loads(line)
            judged = [rule_score(row, text) for text in row["responses"]]
            good.setdefault(row["set"], []).extend(is_good for _, is_good in judged)
            file.write(json.dumps({**row, "scores": [score for score, _ in judged]}) + "\n")
    for part, answers in sorted(good.items()):
        print(f"good answers, {part}: {sum(answers) / len(answers):.4f} of {len(answers)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The questions, the base model and the rule of the study.")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("output", type=Path, help="directory to write to")
    making.add_argument("--seed", type=int, default=1234, help="(default: %(default)s)")
    making.add_argument("--steps", type=int, default=300, help="of the language model (default: %(default)s)")
    judging = commands.add_parser("judge")
    judging.add_argument("source", type=Path, help="answers that generate wrote")
    judging.add_argument("target", type=Path, help="the same with the rule's scores")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.output, seed=arguments.seed, steps=arguments.steps)
    else:
        judge(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
