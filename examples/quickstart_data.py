"""Make what the quickstart starts from: preference pairs and a small base model.

    python examples/quickstart_data.py OUTPUT_DIR [--seed 1234]

writes OUTPUT_DIR/train.jsonl and heldout.jsonl (sharegpt records), and OUTPUT_DIR/base_model, a Hugging
Face directory with a sentencepiece tokenizer trained on the training part and a randomly initialised
Llama. The same seed gives the same files.

The answer to prefer is one that says what to do, in the subject that was asked about. The other evades,
is rude, talks of something else or says nothing. Openings, closings, lengths and the mention of the
subject tell little, since both sides have them. Every prompt stands in one record; the subjects of the
held-out part, and one in six of its sentences, never occur in training.
"""

import argparse
import io
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHRASES = json.loads((Path(__file__).parent / "quickstart_phrases.json").read_text(encoding="utf-8"))
LANGUAGES = ("en", "zh")
HELDOUT_SUBJECTS = 2  # of the ten of each topic
VOCAB_SIZE = 1200


@dataclass(frozen=True)
class Subject:
    """Something to ask about, in one language."""

    topic: str
    name: str
    language: str


class Writer:
    """Writes prompts and answers about one subject with one random generator."""

    def __init__(self, subject: Subject, rng: random.Random, *, is_heldout: bool) -> None:
        self.subject = subject
        self.rng = rng
        self.phrases = PHRASES[subject.language]
        # The last sentence of every list is kept for the held-out part.
        self.known = slice(None) if is_heldout else slice(-1)

    def fill(self, phrase: str) -> str:
        text = phrase.format(x=self.subject.name, n=self.rng.randint(2, 9))
        return text[:1].upper() + text[1:]

    def question(self, phrase: str) -> str:
        return self.rng.choice(self.phrases["greetings"]) + self.fill(phrase)

    def answer(self, sentences: list[str]) -> str:
        """Sentences in random order between an opening and a closing, either of which may be empty."""
        body = self.rng.sample(sentences, len(sentences))
        parts = [self.rng.choice(self.phrases["openers"]), *body, self.rng.choice(self.phrases["closers"])]
        return self.phrases["joiner"].join(self.fill(part) for part in parts if part)

    def steps(self, count: int) -> list[str]:
        return self.rng.sample(self.phrases["steps"][self.subject.topic][self.known], count)

    def helpful(self) -> str:
        return self.answer(self.steps(self.rng.randint(1, 3)))

    def flawed(self) -> str:
        """An answer with one kind of flaw; one in three has a step that is right besides."""
        kind = self.rng.choice(sorted(self.phrases["flaws"]))
        sentences = self.rng.sample(self.phrases["flaws"][kind][self.known], self.rng.randint(1, 4))
        if self.rng.random() < 1 / 3:
            sentences[1:2] = self.steps(1)
        return self.answer(sentences)

    def record(self, question: str) -> dict[str, Any]:
        """A pair whose last question is `question`: 3 in 10 have an earlier turn, 1 in 4 a system message."""
        conversation = []
        if self.rng.random() < 0.25:
            conversation.append(_message("system", self.phrases["system"][self.subject.topic]))
        if self.rng.random() < 0.3:
            earlier = self.rng.choice([other for other in self.phrases["questions"] if other != question])
            # The earlier answer is good or bad by chance: what counts is the last one.
            answer = self.rng.choice([self.helpful, self.flawed])()
            conversation += [_message("human", self.question(earlier)), _message("gpt", answer)]
        conversation.append(_message("human", self.question(question)))
        return {
            "conversations": conversation,
            "chosen": _message("gpt", self.helpful()),
            "rejected": _message("gpt", self.flawed()),
        }


def _message(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def make_pairs(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training records, held-out records): one for every question about every subject, shuffled."""
    rng = random.Random(seed)
    train, heldout = [], []
    for topic, names in PHRASES["topics"].items():
        for index, both_names in enumerate(rng.sample(names, len(names))):
            is_heldout = index < HELDOUT_SUBJECTS
            part = heldout if is_heldout else train
            for language, name in zip(LANGUAGES, both_names, strict=True):
                writer = Writer(Subject(topic, name, language), rng, is_heldout=is_heldout)
                part += [writer.record(question) for question in writer.phrases["questions"]]
    rng.shuffle(train)
    rng.shuffle(heldout)
    return train, heldout


def texts_of(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    for record in records:
        for message in [*record["conversations"], record["chosen"], record["rejected"]]:
            yield message["value"]


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tokenizer(directory: Path, texts: Iterable[str]) -> None:
    """A sentencepiece model whose ids are Llama 2's: <unk> 0, <s> 1, </s> 2; and <pad> 3."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        # As Llama's: texts are taken as they are.
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


def write_model(directory: Path, seed: int) -> None:
    """A Llama of 0.7 million random weights, as transformers writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pairs and the base model of the quickstart.")
    parser.add_argument("output", type=Path, help="directory to write to")
    parser.add_argument("--seed", type=int, default=1234, help="(default: %(default)s)")
    arguments = parser.parse_args()

    base_model = arguments.output / "base_model"
    base_model.mkdir(parents=True, exist_ok=True)
    train, heldout = make_pairs(arguments.seed)
    write_jsonl(arguments.output / "train.jsonl", train)
    write_jsonl(arguments.output / "heldout.jsonl", heldout)
    write_tokenizer(base_model, texts_of(train))
    write_model(base_model, arguments.seed)
    print(f"{arguments.output}: {len(train)} training pairs, {len(heldout)} held-out pairs, base_model")


if __name__ == "__main__":
    main()
