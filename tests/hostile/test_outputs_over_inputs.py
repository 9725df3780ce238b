"""A command does not write over what it reads: one line before any file is opened for writing."""

import json
from pathlib import Path

import pytest

from tests.hostile.commands import HANDLER, PREPROCESS, TRAIN, Material, run

SCORE = "--load trained --micro-batch-size 4"
LAST = "trained/iter_0000002"


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file and what it holds."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "model/" not in str(path)
    }


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("score", f"{SCORE} --input pairs.json --output pairs.json", "is pairs.json, which"),
        ("score", f"{SCORE} --input pairs.json --output ./indexed/../pairs.json", "is pairs.json, which"),
        ("score", f"{SCORE} --input pairs.json --output linked.json", "is pairs.json, which"),
        ("score", f"{SCORE} --input pairs.json --output hard.json", "is pairs.json, which"),
        ("score", f"{SCORE} --input linked.json --output hard.json", "is linked.json, which"),
        ("score", f"{SCORE} --input pairs.json --output {LAST}/scores.jsonl", f"lies in {LAST}, which"),
        ("score", f"{SCORE} --input pairs.json --output {LAST}/run.json", f"lies in {LAST}, which"),
        (
            "score",
            f"{SCORE} --input pairs.json --output trained/latest_checkpointed_iteration.txt",
            "which this command reads",
        ),
        (
            "score",
            "--load model --load-checkpoint-loosely --prompt-type llama2 --input pairs.json "
            "--output model/config.json",
            "is model/config.json, which",
        ),
        ("train", f"{TRAIN} --load trained --finetune --save {LAST}", f"lies in {LAST}, which"),
        ("train", f"{TRAIN} --load trained --finetune --save {LAST}/more", f"lies in {LAST}, which"),
        (
            "train",
            f"{TRAIN} --load trained --finetune --save run --tensorboard-dir {LAST}/events",
            f"lies in {LAST}, which",
        ),
        ("score", f"{SCORE} --input pairs.json --output /dev/null", "/dev/null is not a regular file"),
        ("score", f"{SCORE} --input pairs.json --output data", "data is not a regular file"),
        ("preprocess", f"{PREPROCESS} out --rejects pairs.json", "is pairs.json, which"),
        ("preprocess", f"{PREPROCESS} out --rejects hard.json", "is pairs.json, which"),
        ("preprocess", f"{PREPROCESS} out --rejects model/tokenizer.model", "is model/tokenizer.model"),
        ("preprocess", f"{PREPROCESS} out --rejects out_manifest.json", "is also written by --rejects"),
        ("preprocess", f"{PREPROCESS} out --rejects OUT_manifest.json", "is also written by --rejects"),
        (
            "preprocess",
            f"--input in_manifest.json/in.json {HANDLER} --output-prefix in",
            "is not a regular file",
        ),
        ("preprocess", f"{PREPROCESS} hard", "hard_manifest.json is pairs.json, which"),
        (
            "merge",
            "--merge-shards --output-prefix shards --rejects shards_shard_0_of_2.parts",
            "is shards_shard_0_of_2.parts, which",
        ),
        (
            "merge",
            "--merge-group-keys packed_chosen_labels_document --input indexed --output-prefix indexed/x",
            "which this command reads",
        ),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    command: str, flags: str, message: str, material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    (target / "linked.json").symlink_to("pairs.json")
    (target / "hard.json").hardlink_to(target / "pairs.json")
    (target / "hard_manifest.json").hardlink_to(target / "pairs.json")
    (target / "in_manifest.json").mkdir()
    (target / "in_manifest.json/in.json").write_bytes((target / "pairs.json").read_bytes())
    (target / "indexed").mkdir()
    for path in (material.directory / "data").glob("*_chosen_labels_document.*"):
        for name in ("a", "x"):
            (target / "indexed" / path.name.replace("whole", name)).write_bytes(path.read_bytes())
    before = files_of(target), files_of(material.directory)
    outcome = run(command, flags, target)
    assert outcome.is_one_line(), (outcome.code, outcome.stderr)
    assert message in outcome.errors[0]
    assert (files_of(target), files_of(material.directory)) == before


def test_scores_may_lie_beside_the_checkpoint_and_be_written_again(
    material: Material, tmp_path: Path
) -> None:
    target = material.copy(tmp_path / "trial")
    (target / "in.jsonl").write_text(json.dumps({"prompt": "the cat", "response": "sings"}))
    for _ in range(2):
        outcome = run("score", f"{SCORE} --input in.jsonl --output trained/scores.jsonl", target)
        assert outcome.code == 0, outcome.stderr
    (material.directory / "trained/scores.jsonl").unlink()
