"""Random records through random handlers, templates and flags, and files with random damage."""

import json
import random
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.manifest import manifest_path
from modellink_rm.handlers import HANDLERS
from modellink_rm.templates.table import TEMPLATES
from tests.hostile.commands import TRIALS, Material, Outcome, remains, run

_ANSWER_FIELDS = ("chosen", "rejected", "response", "responses", "output", "answers", "completions")
_FIELDS = (
    *_ANSWER_FIELDS,
    *("prompt", "instruction", "input", "history", "system", "tools", "conversations", "messages"),
    *("ranks", "score_chosen", "score_rejected", "margin", "source"),
)
_TEXTS = (
    "",
    " ",
    "the cat sings",
    "你好 世界",
    "</s>",
    "[INST] a",
    "\n\nHuman: a\n\nAssistant:",
    "\x00",
    "é" * 300,
    # JSON in a text, whose escapes spell what no text may hold.
    r'[{"name": "f", "description": "\ud800"}]',
    r'{"name": "f", "arguments": {"x": "\u003c/s\u003e", "x": "\ud800"}}',
)
_ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "observation", "function_call", "nobody", "")
_FLAGS = (
    "",
    "--seq-length 60",
    "--seq-length 2",
    "--max-prompt-length 3",
    "--drop duplicate equal-answers",
    "--strict",
    "--rejects refused.jsonl",
    "--workers 2",
    "--max-record-bytes 100",
    "--enable-thinking true",
)


def random_value(generator: random.Random, depth: int = 3) -> Any:
    """A JSON value, often a text or a list of messages."""
    kinds = ["text", "text", "number", "null", "true"] + ["messages", "message", "list"] * (depth > 0)
    kind = generator.choice(kinds)
    if kind == "text":
        return generator.choice(_TEXTS)
    if kind == "number":
        return generator.choice((0, 1, -1, 2.5, 1e308, 10**30, 3))
    if kind in ("null", "true"):
        return None if kind == "null" else True
    if kind == "list":
        return [random_value(generator, depth - 1) for _ in range(generator.randint(0, 3))]
    if kind == "messages":
        return [random_message(generator, depth) for _ in range(generator.randint(0, 4))]
    return random_message(generator, depth)


def random_message(generator: random.Random, depth: int) -> dict[str, Any]:
    """What may be a message in one of the known forms."""
    role, content = generator.choice((("role", "content"), ("from", "value"), ("role", "value")))
    text = generator.choice(_TEXTS) if generator.random() < 0.8 else random_value(generator, depth - 1)
    return {role: generator.choice(_ROLES), content: text}


def random_record(generator: random.Random) -> Any:
    """A record with fields of handlers, of texts, messages or anything."""
    if generator.random() < 0.03:
        return random_value(generator)
    names = [*generator.sample(_FIELDS, generator.randint(0, 6)), "prompt", "chosen", "rejected"]
    return {name: random_value(generator) for name in names}


def write_records(path: Path, generator: random.Random) -> int:
    """Write random records as JSON lines; how many."""
    records = [random_record(generator) for _ in range(generator.randint(1, 40))]
    path.write_text("\n".join(map(json.dumps, records)))
    return len(records)


def random_records_trial(material: Material, generator: random.Random, directory: Path) -> list[str]:
    """What is wrong after random records were preprocessed and, now and then, scored."""
    target = material.copy(directory / "trial")
    num_records = write_records(target / "in.jsonl", generator)
    handler, template = generator.choice(list(HANDLERS)), generator.choice(list(TEMPLATES))
    flags = f"--input in.jsonl --handler-name {handler}"
    extra = " ".join(generator.sample(_FLAGS, generator.randint(0, 2)))
    words = f"{flags} --prompt-type {template} --tokenizer-name-or-path model --output-prefix out {extra}"
    told = _unexpected(run("preprocess", words, target)) + _unread(target)
    if generator.random() < 0.2:
        words = f"{flags} --load trained --output scores.jsonl --micro-batch-size {generator.randint(1, 9)}"
        outcome = run("score", words, target)
        told += _unexpected(outcome)
        if outcome.code in (0, 1):
            rows = [json.loads(line) for line in (target / "scores.jsonl").read_text().splitlines()]
            bad = sum("error" in row for row in rows)
            if len(rows) != num_records or bool(bad) != bool(outcome.code):
                told.append(f"{len(rows)} rows, {bad} of errors, of {num_records} records: {outcome.code}")
    return [f"{words}: {one}" for one in told]


# What a command reads, apart from the arrays of data sets and of checkpoints, which checksums are for.
_DAMAGED = {
    "pairs.json": ("preprocess", TRIALS["preprocess"]),
    "model/tokenizer.model": ("preprocess", TRIALS["preprocess"]),
    "model/tokenizer_config.json": ("preprocess", TRIALS["preprocess"]),
    "model/config.json": ("train", TRIALS["train"] + " --train-iters 1"),
    "shards_shard_0_of_2.parts": ("merge", TRIALS["merge"]),
    "data/whole_manifest.json": ("train", TRIALS["train"] + " --train-iters 1"),
    "trained/latest_checkpointed_iteration.txt": ("score", TRIALS["score"]),
    "trained/iter_0000002/run.json": ("score", TRIALS["score"]),
    "trained/iter_0000002/files.json": ("score", TRIALS["score"]),
    "trained/iter_0000002/inference_contract.json": ("score", TRIALS["score"]),
}


def damage_trial(material: Material, generator: random.Random, directory: Path) -> list[str]:
    """What is wrong after a command read a file with random damage."""
    target = material.copy(directory / "trial", links=False)
    name = generator.choice(list(_DAMAGED))
    command, words = _DAMAGED[name]
    content = damaged((target / name).read_bytes(), generator)
    (target / name).write_bytes(content)
    told = _unexpected(run(command, words, target))
    return [f"{name} damaged, {command}: {one}" for one in told]


def damaged(content: bytes, generator: random.Random) -> bytes:
    """The content cut off, or with bytes changed, inserted or taken away."""
    place = generator.randrange(len(content) + 1)
    some = generator.randbytes(generator.randint(1, 8))
    kind = generator.choice(("cut", "change", "insert", "remove", "empty", "other"))
    if kind == "cut":
        return content[:place]
    if kind == "change":
        return content[:place] + some + content[place + len(some) :]
    if kind == "insert":
        return content[:place] + some + content[place:]
    if kind == "remove":
        return content[:place] + content[place + len(some) :]
    return b"" if kind == "empty" else generator.choice((b"null", b"[]", b'{"a": 1}', b"\x00" * 99, some))


def _unexpected(outcome: Outcome) -> list[str]:
    if "Traceback" not in outcome.stderr and (outcome.code in (0, 1) or outcome.is_one_line()):
        return []
    return [f"exit code {outcome.code}: {outcome.stderr[-1500:]}"]


def _unread(target: Path) -> list[str]:
    """What is wrong with the data set that is there, if there is one."""
    left = [name for name in remains(target) if not name.startswith("shards_")]
    if left:
        return [f"left behind: {left}"]
    if not manifest_path(target / "out").exists():
        return []
    try:
        dataset = open_dataset(target / "out")
        for row in range(len(dataset)):
            dataset.rows.responses(row)
    except UserError as error:
        return [f"the data set cannot be read: {error}"]
    assert dataset.manifest is not None
    return [] if len(dataset) == dataset.manifest.num_kept else ["the data set has other rows than it says"]
