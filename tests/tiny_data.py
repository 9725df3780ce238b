"""Tiny tokenizers and data sets, made in the tests."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import sentencepiece

from modellink_rm.dataset.example import Example, Response
from modellink_rm.dataset.indexed import IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import COLUMNS, array_prefix

_TEXT = "the a cat dog sun moon tree river stone bird sings runs sleeps shines falls 你 好 世界 春天 花"
_WORDS = _TEXT.split()


def random_text(generator: random.Random, low: int = 3, high: int = 12) -> str:
    """A few words."""
    return " ".join(generator.choice(_WORDS) for _ in range(generator.randint(low, high)))


def write_tokenizer(directory: Path, *, vocab_size: int = 300) -> Path:
    """tokenizer.model and its config, Llama's special tokens, trained on random words."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(7)
    sentences = iter([random_text(generator) for _ in range(200)])
    with (directory / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=1.0,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    )
    return directory


def random_pairs(num_pairs: int, *, seed: int = 11) -> list[dict[str, object]]:
    """sharegpt records of one or three turns, some with a system message."""
    generator = random.Random(seed)
    records: list[dict[str, object]] = []
    for number in range(num_pairs):
        turns = [("human" if turn % 2 == 0 else "gpt") for turn in range(1 if number % 3 else 3)]
        conversations = [{"from": role, "value": random_text(generator)} for role in turns]
        if number % 4 == 0:
            conversations.insert(0, {"from": "system", "value": random_text(generator)})
        records.append(
            {
                "conversations": conversations,
                "chosen": {"from": "gpt", "value": random_text(generator)},
                "rejected": {"from": "gpt", "value": random_text(generator)},
            }
        )
    return records


def random_steps(num_records: int, *, seed: int = 11) -> list[dict[str, object]]:
    """Records of a response in one to four steps, some of which have no label."""
    generator = random.Random(seed)
    records: list[dict[str, object]] = []
    for _ in range(num_records):
        steps = [random_text(generator) for _ in range(generator.randint(1, 4))]
        labels = [True, *(generator.choice((True, False, 0.25, None)) for _ in steps[1:])]
        records.append({"prompt": random_text(generator), "completions": steps, "labels": labels})
    return records


def write_rows(path: Path, records: Iterable[Mapping[str, object]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def random_example(index: int, prompt: int, *answers: int) -> Example:
    """An example of random ids: a prompt of that many tokens, and answers of their numbers of tokens."""
    generator = np.random.default_rng(index)
    shared = generator.integers(3, 250, size=prompt)
    ids = [np.concatenate([shared, generator.integers(3, 250, size=length)]) for length in answers]
    responses = tuple(Response(one.astype(np.int32), prompt) for one in ids)
    return Example(index, responses, ranks=tuple(range(1, len(ids) + 1)))


def write_random_rows(
    prefix: Path,
    num_rows: int,
    *,
    vocab_size: int = 259,
    seed: int = 3,
    most_responses: int = 2,
    has_margins: bool = False,
) -> Path:
    """The files of random pairs without a manifest, as another tool writes them.

    Args:
        most_responses: with more than 2, prompts have 2 to so many responses with ranks, some of which are
            tied, and margins.
        has_margins: pairs have margins too.
    """
    generator = np.random.default_rng(seed)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[np.ndarray]]] = {}  # array -> of each row its documents
    for _ in range(num_rows):
        prompt = generator.integers(3, vocab_size, size=generator.integers(1, 30))
        num_responses = generator.integers(2, most_responses + 1) if most_responses > 2 else 2
        for side, number in (("chosen", 1), ("rejected", num_responses - 1)):
            answers = [
                generator.integers(3, vocab_size, size=generator.integers(1, 20)) for _ in range(number)
            ]
            ids = [np.concatenate([prompt, answer]) for answer in answers]
            labels = [np.concatenate([np.full(len(prompt), -100), answer]) for answer in answers]
            rows.setdefault(f"{side}_input_ids", []).append(ids)
            rows.setdefault(f"{side}_labels", []).append(labels)
        if most_responses > 2:
            steps = generator.integers(0, 2, size=num_responses - 2)
            ranks = np.cumsum([1, 1, *steps])  # two responses at least have different ranks
            rows.setdefault("ranks", []).append([ranks])
            rows.setdefault("margin", []).append([(ranks[1:] - 1) / 2])
        elif has_margins:
            rows.setdefault("margin", []).append([generator.integers(0, 5, size=1) / 2])
    _write_arrays(prefix, rows)
    return prefix


def write_random_steps(
    prefix: Path, num_rows: int, *, vocab_size: int = 259, seed: int = 3, is_soft: bool = True
) -> Path:
    """The files of random responses in 1 to 6 steps, without a manifest.

    Labels are 0 or 1, and a quarter of the steps after the first has none.

    Args:
        is_soft: some rows have probabilities as labels.
    """
    generator = np.random.default_rng(seed)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[np.ndarray]]] = {"rejected_input_ids": [], "rejected_labels": []}
    for number in range(num_rows):
        prompt = generator.integers(3, vocab_size, size=generator.integers(1, 30))
        ends = len(prompt) - 1 + np.cumsum(generator.integers(1, 6, size=generator.integers(1, 7)))
        answer = generator.integers(3, vocab_size, size=ends[-1] + 1 - len(prompt))
        labels = generator.integers(0, 2, size=len(ends)).astype(np.float32)
        if is_soft and number % 3 == 0:
            labels = generator.random(len(ends)).astype(np.float32)
        labels[1:][generator.random(len(ends) - 1) < 0.25] = np.nan
        columns = {
            "chosen_input_ids": np.concatenate([prompt, answer]),
            "chosen_labels": np.concatenate([np.full(len(prompt), -100), answer]),
            "ranks": np.array([1]),
            "step_ends": ends,
            "step_labels": labels,
        }
        for name, values in columns.items():
            rows.setdefault(name, []).append([values])
        rows["rejected_input_ids"].append([])
        rows["rejected_labels"].append([])
    _write_arrays(prefix, rows)
    return prefix


def _write_arrays(prefix: Path, rows: dict[str, list[list[np.ndarray]]]) -> None:
    """The files of each array, given the documents of each of its rows."""
    for name, of_rows in rows.items():
        path = array_prefix(prefix, name)
        dtype = COLUMNS.get(name, "int32")
        with bin_path(path).open("wb") as data, idx_path(path).open("wb") as index:
            writer = IndexedWriter(data, index, dtype)
            for arrays in of_rows:
                lengths = np.array([len(array) for array in arrays], dtype=np.int32)
                documents = np.array([len(arrays)], np.int32) if name.startswith("rejected") else None
                together = np.concatenate(arrays) if arrays else np.empty(0)
                writer.append(together.astype(dtype), lengths, documents)
            writer.finish()
