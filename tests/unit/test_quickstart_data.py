"""The quickstart's pairs: what a model can learn from them, and what gives the answer away."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from examples.quickstart_data import PHRASES, make_pairs, texts_of, write_model, write_tokenizer
from modellink_rm.handlers import make_handler

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def train() -> Records:
    return make_pairs(1234)[0]


@pytest.fixture(scope="module")
def heldout() -> Records:
    return make_pairs(1234)[1]


def answers(records: Records, side: str) -> list[str]:
    return [record[side]["value"] for record in records]


def part_with(speaker: str, records: Records) -> float:
    hits = [any(message["from"] == speaker for message in record["conversations"]) for record in records]
    return sum(hits) / len(records)


def test_a_seed_fixes_every_record() -> None:
    assert make_pairs(7) == make_pairs(7)
    assert make_pairs(7) != make_pairs(8)


def test_parts_are_large_enough_to_learn_from_and_to_judge_by(train: Records, heldout: Records) -> None:
    assert (len(train), len(heldout)) == (480, 120)


def test_heldout_subjects_never_occur_in_training(train: Records, heldout: Records) -> None:
    seen = "\n".join(texts_of(train)).lower()
    names = [name for subjects in PHRASES["topics"].values() for pair in subjects for name in pair]
    unseen = [name for name in names if name.lower() not in seen]
    assert len(unseen) == 2 * 2 * len(PHRASES["topics"])
    last_questions = [record["conversations"][-1]["value"].lower() for record in heldout]
    assert all(any(name.lower() in question for name in unseen) for question in last_questions)


def test_every_prompt_stands_in_one_record(train: Records, heldout: Records) -> None:
    prompts = [json.dumps(record["conversations"], ensure_ascii=False) for record in train + heldout]
    assert len(set(prompts)) == len(prompts)


def test_prompts_vary_in_turns_system_and_language(train: Records, heldout: Records) -> None:
    for records in (train, heldout):
        assert 0.2 < part_with("gpt", records) < 0.4
        assert 0.15 < part_with("system", records) < 0.35
        chinese = [not answer.isascii() for answer in answers(records, "chosen")]
        assert sum(chinese) == len(records) / 2


def test_length_tells_little_about_the_better_answer(train: Records, heldout: Records) -> None:
    records = train + heldout
    longer = [len(record["chosen"]["value"]) > len(record["rejected"]["value"]) for record in records]
    assert 0.4 < sum(longer) / len(records) < 0.6


@pytest.mark.parametrize("words", ["Good question", "Good luck", "谢谢你的提问", "希望有帮助"])
def test_politeness_stands_on_both_sides(train: Records, words: str) -> None:
    chosen, rejected = (sum(words in answer for answer in answers(train, s)) for s in ("chosen", "rejected"))
    assert min(chosen, rejected) > 0.6 * max(chosen, rejected)


def test_no_single_sentence_gives_many_pairs_away(train: Records) -> None:
    for language in ("en", "zh"):
        for sentences in PHRASES[language]["flaws"].values():
            for sentence in sentences:
                opening = sentence.split("{x}")[0][:12]
                hits = sum(opening in answer for answer in answers(train, "rejected") if opening)
                assert hits < 0.15 * len(train), sentence


def test_the_handler_of_sharegpt_pairs_reads_every_record(train: Records, heldout: Records) -> None:
    handler = make_handler("SharegptStylePairwiseHandler", None)
    for record in train + heldout:
        pair = handler(record)
        assert pair.chosen.content == record["chosen"]["value"]
        assert pair.rejected.content == record["rejected"]["value"]


def test_base_model_directory_is_a_llama_with_the_tokenizers_vocabulary(
    tmp_path: Path, train: Records
) -> None:
    write_tokenizer(tmp_path, texts_of(train))
    write_model(tmp_path, 1234)
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["vocab_size"] == processor.get_piece_size()
    ids = processor.bos_id(), processor.eos_id(), processor.pad_id()
    assert ids == (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"])
    assert len({*ids, processor.unk_id()}) == 4
    assert processor.unk_id() not in processor.encode("a word with an unseen sign: ☃")
