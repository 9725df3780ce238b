"""A checkpoint is what was written, runs no code, and is whole while it is read; or it is refused."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.checkpoint.files import FILES_NAME, TENSOR_SUFFIX, describe_files, files_json
from modellink_rm.checkpoint.prune import Retention, prune
from tests.distributed import Workers
from tests.parallel.conftest import NUM_STEPS
from tests.runs import run_training, train_part


@pytest.fixture(scope="module")
def trained(arguments: list[str], workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    run_training(workers, 2, [*arguments, "--prompt-type", "llama2"], directory)
    return directory / f"iter_{NUM_STEPS:07d}"


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def seal(checkpoint: Path) -> None:
    """Make files.json of what there is, as whoever makes a checkpoint can."""
    (checkpoint / FILES_NAME).unlink()
    paths = [path for path in checkpoint.rglob("*") if path.is_file()]
    (checkpoint / FILES_NAME).write_bytes(files_json(describe_files(checkpoint, paths)))


def refusal(checkpoint: Path, change_while_loading: Callable[[Path], None] | None, flags: str = "") -> str:
    """What a rank says of weights that it loads; "" where it loads them."""
    from megatron.core import dist_checkpointing

    from modellink_rm.base.errors import UserError
    from modellink_rm.inference.scorer import Scorer

    load = dist_checkpointing.load

    def changed(*arguments: Any, **keywords: Any) -> Any:
        if change_while_loading is not None and os.environ["RANK"] == "0":
            change_while_loading(checkpoint)
        if torch.distributed.get_world_size() > 1:
            torch.distributed.barrier()
        return load(*arguments, **keywords)

    dist_checkpointing.load = changed
    try:
        with Scorer.open(checkpoint, **({"verify_checksums": False} if flags else {})):
            return ""
    except UserError as error:
        return str(error)
    finally:
        dist_checkpointing.load = load


def refusals(
    workers: Workers, size: int, checkpoint: Path, change: Callable[[Path], None] | None = None
) -> set[str]:
    said = set(workers.run(refusal, size, checkpoint, change))
    assert not any("\n" in line for line in said)
    return said


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_flipped_bits_of_tensors_are_refused_by_every_process(workers: Workers, checkpoint: Path) -> None:
    assert refusals(workers, 2, checkpoint) == {""}
    for number, path in enumerate(sorted(checkpoint.glob(f"*{TENSOR_SUFFIX}"))):
        bit = 8 * path.stat().st_size * (2 * number + 1) // 11
        flip(path, bit)
        assert refusals(workers, 2, checkpoint) == {
            f"checkpoint file {path} has changed since it was written: copy it again from where it is whole"
        }
        flip(path, bit)
    assert refusals(workers, 2, checkpoint) == {""}


def refusal_by_rank(checkpoints: list[Path]) -> str:
    """What each rank says when its --load led it to a checkpoint of its own."""
    return refusal(checkpoints[int(os.environ["RANK"])], None)


def test_processes_that_find_different_newest_checkpoints_mix_no_weights(
    workers: Workers, checkpoint: Path, tmp_path: Path
) -> None:
    """As where a run saves while several processes look for its newest checkpoint."""
    other = Path(shutil.copytree(checkpoint, tmp_path / "newer"))
    (other / "common.pt").write_bytes((other / "common.pt").read_bytes() + b" ")
    seal(other)
    for said, path in zip(
        workers.run(refusal_by_rank, 2, [checkpoint, other]), (checkpoint, other), strict=True
    ):
        assert said.startswith(f"{path} is not what every process reads: a newer checkpoint was saved")


def test_tensors_of_trusted_storage_are_not_compared(workers: Workers, checkpoint: Path) -> None:
    path = checkpoint / f"__0_0{TENSOR_SUFFIX}"
    entry = (checkpoint / FILES_NAME).read_text()
    digest = describe_files(checkpoint, [path])[path.name].sha256
    (checkpoint / FILES_NAME).write_text(entry.replace(digest, "0" * 64))
    assert "is damaged" in "".join(workers.run(refusal, 1, checkpoint, None))  # files.json says its own
    (checkpoint / FILES_NAME).write_text(entry)
    flip(path, 8 * path.stat().st_size - 4)  # past the last tensor
    assert workers.run(refusal, 1, checkpoint, None, "unverified") == [""]


class _Code:
    """An object whose pickle makes a directory when it is read."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.directory,)


def put_into_metadata(checkpoint: Path, code: _Code) -> None:
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    metadata.planner_data = code
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def put_into_common(checkpoint: Path, code: _Code) -> None:
    common = torch.load(checkpoint / "common.pt", weights_only=False)
    torch.save({**common, "code": code}, checkpoint / "common.pt")


def put_into_objects(checkpoint: Path, code: _Code) -> None:
    """In place of every object, such as random states, that lies among the tensors."""
    torch.save(code, checkpoint / "code")
    content = (checkpoint / "code").read_bytes()
    (checkpoint / "code").unlink()
    path = checkpoint / f"__0_0{TENSOR_SUFFIX}"
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    for index, place in metadata.storage_data.items():
        if type(metadata.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
            place.relative_path, place.offset, place.length = path.name, path.stat().st_size, len(content)
    path.write_bytes(path.read_bytes() + content)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("put", [put_into_metadata, put_into_common, put_into_objects])
def test_code_in_a_pickle_of_a_checkpoint_is_not_run(
    put: Callable[[Path, _Code], None],
    workers: Workers,
    checkpoint: Path,
    tmp_path: Path,
    arguments: list[str],
) -> None:
    code = _Code(tmp_path / "was run")
    pickle.loads(pickle.dumps(code))
    (tmp_path / "was run").rmdir()  # it does run where it is let
    put(checkpoint, code)
    seal(checkpoint)
    (said,) = refusals(workers, 1, checkpoint)
    assert "holds a pickle that names posix.mkdir, which is not of a checkpoint" in said
    assert not (tmp_path / "was run").exists()
    flags = [*arguments, "--load", str(checkpoint), "--prompt-type", "llama2"]
    with pytest.raises(AssertionError, match=r"pickle that names posix\.mkdir"):
        workers.run(train_part, 1, flags)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("name", ["../elsewhere.distcp", "/etc/hostname", ".."])
def test_tensors_are_read_from_files_of_the_checkpoint_alone(
    name: str, workers: Workers, checkpoint: Path
) -> None:
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    for place in metadata.storage_data.values():
        place.relative_path = name
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    seal(checkpoint)
    (said,) = refusals(workers, 1, checkpoint)
    assert f"{name!r} is not a file of the checkpoint" in said


def remove_tensors(checkpoint: Path) -> None:
    for path in checkpoint.glob(f"*{TENSOR_SUFFIX}"):
        path.unlink()


def remove_everything(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)


def replace(checkpoint: Path) -> None:
    copy = shutil.copytree(checkpoint, checkpoint.with_name("copy"))
    shutil.rmtree(checkpoint)
    os.rename(copy, checkpoint)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove_tensors, "cannot be read"),
        (remove_everything, "cannot be read"),
        (replace, "was removed or written anew while it was read"),
    ],
)
def test_a_checkpoint_that_changes_while_it_is_loaded_is_refused_in_one_line(
    change: Callable[[Path], None], expected: str, workers: Workers, checkpoint: Path
) -> None:
    (said,) = refusals(workers, 1, checkpoint, change)
    assert said.startswith(str(checkpoint))
    assert expected in said


def let_a_run_prune(checkpoint: Path) -> None:
    assert prune(checkpoint.parent, NUM_STEPS + 1, Retention(keep_last=1)) == []


def test_a_run_that_keeps_the_last_does_not_remove_a_checkpoint_that_is_loaded(
    workers: Workers, checkpoint: Path
) -> None:
    assert refusals(workers, 1, checkpoint, let_a_run_prune) == {""}
    assert prune(checkpoint.parent, NUM_STEPS + 1, Retention(keep_last=1)) == [checkpoint]
