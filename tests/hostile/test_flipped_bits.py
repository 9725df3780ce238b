"""50 flipped bits in each file that is read: refused, or nothing that is read changes. Never silent.

The counts are those of docs/reliability.md; `pytest -m full -s tests/hostile` prints them.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import bin_path, idx_path
from modellink_rm.dataset.manifest import column_files
from modellink_rm.dataset.reference import ReferenceColumn, reference_parts
from modellink_rm.generation.answer_files import AnswerTotals
from modellink_rm.inference.totals import Totals
from modellink_rm.preprocess.parts import read_shard
from modellink_rm.preprocess.rows import to_bytes
from modellink_rm.records.record import RawRecord, RecordBlock
from modellink_rm.records.row_parts import part_of_block, row_parts
from tests.distributed import Workers
from tests.hostile.flips import NUM_FLIPS, outcomes_of_flips
from tests.runs import run_training
from tests.tiny_data import random_pairs, write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
STEPS = 2
WORDS = "--handler-name SharegptStylePairwiseHandler --prompt-type llama2"
RECORDS = [
    {"prompt": "the cat sings", "response": "a dog runs"},
    {"prompt": "sun", "response": "river falls"},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, workers: Workers) -> Path:
    """A tiny model, data of every array and column, and a checkpoint of a run on one process."""
    made = tmp_path_factory.mktemp("hostile")
    write_tiny_llama(made / "model", value_head=True)
    write_tokenizer(made / "model")
    write_random_rows(made / "rows", 20)
    lines = [{**record, "by": number / 8, "set": "s"} for number, record in enumerate(random_pairs(40))]
    (made / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = f"{WORDS} --input {made}/in.jsonl --output-prefix {made}/x --tokenizer-name-or-path {made}/model"
    flags = ["--map-keys", '{"margin": "by", "source": "set"}']
    assert run_command(preprocess_main, [*words.split(), *flags]) == 0
    run = f"--stage rm --is-pairwise-dataset --load {made}/model --load-checkpoint-loosely --seq-length 64"
    run += f" --data-path {made}/rows --global-batch-size 2 --train-iters {STEPS} --prompt-type llama2"
    run_training(workers, 1, run.split(), made / "save")
    return made


def rows_of(prefix: Path) -> list[object]:
    dataset = open_dataset(prefix)
    rows = dataset.rows
    return [
        [
            *([one.input_ids.tolist(), one.num_prompt_tokens] for one in rows.responses(row)),
            rows.margins(row),
            rows.source(row),
            rows.ranks_of(row),
            repr(rows.ratings_of(row)),  # NaN is not equal to itself
        ]
        for row in range(len(dataset))
    ]


def scores_of(load: Path, keywords: dict[str, object]) -> list[object]:
    """The scores of some responses, as bytes that are equal where they are to the last bit."""
    from modellink_rm.inference.scorer import Scorer

    with Scorer.open(load, **keywords) as scorer:
        return [torch.tensor(scores).numpy().tobytes() for scores in scorer.score(RECORDS)]


def flips_while_scoring(
    path: Path, load: Path, keywords: dict[str, object], first_bytes: int | None = None
) -> Counter[str]:
    return outcomes_of_flips(path, lambda: scores_of(load, keywords), first_bytes=first_bytes)


def assert_none_is_silent(counts: dict[str, Counter[str]]) -> None:
    for name, outcomes in counts.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"{name}: {told}")
    assert not {name for name, outcomes in counts.items() if outcomes["silent"]}


def test_no_flipped_bit_of_a_data_set_changes_rows(directory: Path, tmp_path: Path) -> None:
    for path in directory.glob("x_*"):
        shutil.copy(path, tmp_path)
    paths = sorted(tmp_path.glob("x_*"))
    assert len(paths) == 8 + 2 * 2 + 2
    counts = {path.name: outcomes_of_flips(path, lambda: rows_of(tmp_path / "x")) for path in paths}
    assert_none_is_silent(counts)


RANKINGS = {"prompt": "the sun", "responses": ["a dog", "cats", "birds sing"], "ratings": [3, 1.5, 1.5]}
RATINGS = {"prompt": "the sun", "response": "a dog runs", "good": 3, "long": None}


@pytest.mark.parametrize(
    ("handler", "record", "keys", "columns"),
    [
        ("RankedResponsesHandler", RANKINGS, {}, ["margin", "ranks"]),
        ("RatedResponseHandler", RATINGS, {"attributes": "good,long"}, ["ranks", "ratings"]),
    ],
)
def test_no_flipped_bit_of_rankings_and_ratings_changes_rows(
    handler: str,
    record: dict[str, object],
    keys: dict[str, str],
    columns: list[str],
    directory: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join([json.dumps(record)] * 30))
    words = f"--handler-name {handler} --prompt-type llama2 --tokenizer-name-or-path {directory}/model"
    words += f" --input {tmp_path}/in.jsonl --output-prefix {tmp_path}/x"
    assert run_command(preprocess_main, [*words.split(), "--map-keys", json.dumps(keys)]) == 0
    found = [path for name in columns for path in column_files(tmp_path / "x", name)]
    assert all(path.exists() for path in found)
    paths = [*found, tmp_path / "x_checksums.crc32", tmp_path / "x_manifest.json"]
    assert_none_is_silent(
        {path.name: outcomes_of_flips(path, lambda: rows_of(tmp_path / "x")) for path in paths}
    )


def test_no_flipped_bit_of_a_shard_changes_its_rows(directory: Path, tmp_path: Path) -> None:
    words = (
        f"{WORDS} --input {directory}/in.jsonl --output-prefix {tmp_path}/x --num-shards 2 --shard-index 0"
    )
    words += f" --tokenizer-name-or-path {directory}/model"
    assert run_command(preprocess_main, words.split()) == 0
    (path,) = tmp_path.glob("*.parts")

    def read() -> object:
        identity, parts = read_shard(path)
        return identity, [to_bytes(rows) for rows in parts]

    assert_none_is_silent({path.name: outcomes_of_flips(path, read)})


def test_no_flipped_bit_of_a_checkpoint_changes_scores(
    directory: Path, tmp_path: Path, workers: Workers
) -> None:
    save = Path(shutil.copytree(directory / "save", tmp_path / "save"))
    checkpoint = save / f"iter_{STEPS:07d}"
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    paths.append(save / "latest_checkpointed_iteration.txt")
    counts = {}
    for path in paths:
        (counts[str(path.relative_to(save))],) = workers.run(flips_while_scoring, 1, path, save, {})
    assert_none_is_silent(counts)


def test_no_flipped_bit_of_a_safetensors_header_changes_scores(
    directory: Path, tmp_path: Path, workers: Workers
) -> None:
    model = Path(shutil.copytree(directory / "model", tmp_path / "model"))
    keywords: dict[str, object] = {"prompt_type": "llama2", "load_checkpoint_loosely": True}
    counts = {}
    for path in sorted(model.glob("*.safetensors")):
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        (counts[path.name],) = workers.run(flips_while_scoring, 1, path, model, keywords, header)
    assert_none_is_silent(counts)


def export_on_rank(load: Path, output: Path) -> None:
    from modellink_rm.config.export import ExportConfig
    from modellink_rm.config.parallel import ParallelConfig
    from modellink_rm.conversion.adapter import export_adapter

    export_adapter(ExportConfig(load=str(load), output=str(output)), ParallelConfig())


def test_no_flipped_bit_of_adapters_changes_scores(directory: Path, tmp_path: Path, workers: Workers) -> None:
    """adapter_config.json apart, which people edit."""
    model = tmp_path / "model"
    write_tiny_llama(model, kind="score")
    write_tokenizer(model)
    run = f"--stage rm --is-pairwise-dataset --load {model} --seq-length 64 --lora-r 4"
    run += f" --data-path {directory}/rows --global-batch-size 2 --train-iters {STEPS} --prompt-type llama2"
    save = tmp_path / "save"
    run_training(workers, 1, run.split(), save)
    workers.run(export_on_rank, 1, save, tmp_path / "peft")
    counts = {}
    for path in sorted(path for path in (save / f"iter_{STEPS:07d}").iterdir() if path.is_file()):
        (counts[path.name],) = workers.run(flips_while_scoring, 1, path, save, {})
    keywords = {"load_adapter": str(tmp_path / "peft"), "prompt_type": "llama2"}
    for name in ("adapter_model.safetensors", "inference_contract.json", "modellink_rm_checksums.json"):
        path = tmp_path / "peft" / name
        (counts[name],) = workers.run(flips_while_scoring, 1, path, model, keywords)
    assert_none_is_silent(counts)


def test_no_flipped_bit_of_a_reference_column_changes_it(tmp_path: Path) -> None:
    """A column that is not what was written is computed again; of its parts, what is whole before the bit."""
    values, lengths = np.random.default_rng(1).normal(size=90), np.full(45, 2, np.int32)
    column = ReferenceColumn(prefix=tmp_path / "pairs", identity={"model": "a", "seq_length": 64})
    column.write(values, lengths)

    def read() -> list[object]:
        found = column.open()
        if found is None:
            raise UserError(f"{column.array.name} is computed again")
        return [found[row].tolist() for row in range(len(found))]

    paths = [bin_path(column.array), idx_path(column.array), column.description]
    counts = {path.name: outcomes_of_flips(path, read) for path in paths}
    with reference_parts(column) as parts:
        parts.finished(column.identity_json)
        for start in range(0, len(values), 30):
            parts.add(values[start : start + 30])
        path = parts.path

    def read_parts() -> object:
        content = path.read_bytes()
        with reference_parts(column) as parts:
            kept = [part.tolist() for part in parts.finished(column.identity_json)]
        path.write_bytes(content)
        whole = [values[start : start + 30].tolist() for start in range(0, len(values), 30)]
        if len(kept) < len(whole) and kept == whole[: len(kept)]:
            raise UserError(f"{path.name}: the rest is computed again")
        return kept

    counts[path.name] = outcomes_of_flips(path, read_parts)
    assert_none_is_silent(counts)


@pytest.mark.parametrize("command", ["score", "generate"])
def test_no_flipped_bit_of_finished_rows_is_continued_from(command: str, tmp_path: Path) -> None:
    counts, magic = {"score": (Totals, b"MLRMSCORE1"), "generate": (AnswerTotals, b"MLRMANSWER")}[command]
    output, identity = str(tmp_path / "rows.jsonl"), b'{"seed": 1}'
    blocks = [[RawRecord(f"in:{part}:{row}", b'{"a": 1}', "") for row in range(3)] for part in range(3)]
    with row_parts(output, identity, magic=magic, counts=counts, resume=False) as parts:
        for number, block in enumerate(blocks):
            rows = [json.dumps({"part": number, "row": row}).encode() + b"\n" for row in range(3)]
            parts.append(part_of_block(RecordBlock(block), counts(inputs=3), rows).to_bytes())
        path = parts.path
    whole = path.read_bytes()

    def read() -> list[Any]:
        with row_parts(output, identity, magic=magic, counts=counts, resume=True) as parts:
            kept = [(part.rows, part.totals, part.crc32) for part in parts.whole_parts()]
        path.write_bytes(content)
        if len(kept) < len(expected) and kept == expected[: len(kept)]:
            raise UserError(f"{path.name}: the rest is made again")
        return kept

    content, expected = whole, list[Any]()
    expected = read()
    outcomes: Counter[str] = Counter()
    for bit in np.random.default_rng(2).choice(8 * len(whole), size=NUM_FLIPS, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        content = bytes(damaged)
        path.write_bytes(content)
        try:
            outcomes["harmless" if read() == expected else "silent"] += 1
        except UserError as error:
            outcomes["refused by name" if path.name in str(error) else "refused"] += 1
    assert_none_is_silent({path.name: outcomes})
