"""Every field of every small file with values that it cannot have: read, or one line; no traceback."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.files import FILES_NAME, describe_files, files_json
from modellink_rm.checkpoint.layout import RUN_NAME
from modellink_rm.commands.train import run_config
from modellink_rm.config.score import ScorerConfig
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.dataset.dataset import open_dataset, verify_contents
from modellink_rm.dataset.inspect import report
from modellink_rm.dataset.manifest import manifest_path
from modellink_rm.inference.plan import plan_scoring
from modellink_rm.preprocess.merge import merge_shards
from modellink_rm.preprocess.parts import parts_path
from modellink_rm.records import Record
from modellink_rm.train.plan import plan_run
from tests.hostile.commands import TRAIN, Material
from tests.hostile.odd_values import offences
from tests.marks import full

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture
def directory(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = material.copy(tmp_path / "trial", links=False)
    monkeypatch.chdir(target)
    return target


def train_plan(flags: str) -> object:
    return plan_run(run_config(f"{TRAIN} {flags}".split()), world_size=1)


def sealed(content: Any) -> bytes:
    """The content with the right checksum, where it can have one."""
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name != "checksum"}
        checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        content["checksum"] = checksum
    return json.dumps(content).encode()


def describe_again(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files as they are now."""
    paths = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != FILES_NAME]
    (checkpoint / FILES_NAME).write_bytes(files_json(describe_files(checkpoint, paths)))


def score_plan() -> None:
    """What `score` does before it loads the weights, and the ids of a record."""
    inputs = plan_scoring(ScorerOptions(scorer=ScorerConfig(load="trained"))).inputs
    inputs(Record("a", {"prompt": "the cat", "response": "sings"}))


# Every change takes minutes; the others are of other fields and values.
SOME = pytest.mark.parametrize("every", [61, full(1)])


@SOME
def test_any_value_of_a_manifest(every: int, directory: Path) -> None:
    prefix = directory / "data/whole"
    path = manifest_path(prefix)

    def use(content: Any) -> None:
        path.write_bytes(sealed(content))
        dataset = open_dataset(prefix)
        assert dataset.manifest is not None
        "\n".join(report(dataset.manifest)).encode()
        dataset.rows.responses(0)
        train_plan("")
        verify_contents(dataset)

    assert offences(json.loads(path.read_bytes()), use, every=every) == []


@SOME
@pytest.mark.parametrize("name", [RUN_NAME, CONTRACT_NAME, FILES_NAME])
def test_any_value_of_a_checkpoint(name: str, every: int, directory: Path) -> None:
    checkpoint = directory / "trained/iter_0000002"

    def use(content: Any) -> None:
        if name == FILES_NAME:
            (checkpoint / name).write_bytes(sealed(content))
        else:
            (checkpoint / name).write_text(json.dumps(content))
            describe_again(checkpoint)
        score_plan()
        train_plan("--save trained --auto-resume")

    assert offences(json.loads((checkpoint / name).read_bytes()), use, every=every) == []


@SOME
def test_any_value_of_a_shard(every: int, directory: Path) -> None:
    """What is in the parts of a shard: how it was made, then blocks of rows."""
    path = parts_path(directory / "shards", 0, 2)
    content = path.read_bytes()
    magic, frames = content[:9], frames_of(content[9:])
    prefix = directory / "shards"

    def written(identity: Any, head: Any, arrays: bytes) -> bytes:
        encoded = json.dumps(head).encode()
        whole = [json.dumps(identity).encode(), len(encoded).to_bytes(8, "little") + encoded + arrays]
        framed = [data + zlib.crc32(data).to_bytes(4, "little") for data in whole]
        return magic + b"".join(len(data).to_bytes(8, "little") + data for data in [*framed, *frames[2:]])

    identity = json.loads(frames[0][:-4])
    size = 8 + int.from_bytes(frames[1][:8], "little")
    head, arrays = json.loads(frames[1][8:size]), frames[1][size:-4]
    assert written(identity, head, arrays) == content
    shards = {shard: shard.read_bytes() for shard in directory.glob("shards_shard_*.parts")}

    def use(variant: bytes) -> None:
        for shard, whole in shards.items():
            shard.write_bytes(whole)
        path.write_bytes(variant)
        merge_shards(prefix, rejects=None)
        open_dataset(prefix).rows.responses(0)

    assert offences(identity, lambda new: use(written(new, head, arrays)), every=every) == []
    assert offences(head, lambda new: use(written(identity, new, arrays)), every=every) == []


def frames_of(content: bytes) -> list[bytes]:
    """What each length is followed by."""
    frames = []
    while content:
        size = int.from_bytes(content[:8], "little")
        frames.append(content[8 : 8 + size])
        content = content[8 + size :]
    return frames
