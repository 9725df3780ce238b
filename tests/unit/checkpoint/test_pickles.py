"""Pickles of a checkpoint: what they describe is read, and nothing of this process changes."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import filesystem, metadata, planner

from modellink_rm.checkpoint.pickles import check_pickles, load_metadata, pickles_without_code, refused_name

INDEX = metadata.MetadataIndex("weight", torch.Size([0, 0]))
PROPERTIES = metadata.TensorProperties(dtype=torch.bfloat16, memory_format=torch.preserve_format)
CHUNK = metadata.ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 3]))
WHOLE = metadata.Metadata(
    state_dict_metadata={
        "weight": metadata.TensorStorageMetadata(PROPERTIES, torch.Size([2, 3]), [CHUNK]),
        "rng/shard_0_1": metadata.BytesStorageMetadata(),
    },
    planner_data=planner.SavePlan([planner.WriteItem(INDEX, planner.WriteItemType.TENSOR)]),
    storage_data={INDEX: filesystem._StorageInfo("__0_0.distcp", 0, 9)},
    storage_meta=metadata.StorageMeta("x", save_id="1"),
)
# What a pickle can do with a name: set an attribute of what it stands for (BUILD, with slots).
MARK = b"(N}X\x06\x00\x00\x00markedK\x01stb."


def named(kind: Any) -> bytes:
    """The operation that puts a class or a function on the stack."""
    return f"c{kind.__module__}\n{kind.__name__}\n".encode()


def refusal(content: bytes) -> str:
    with pytest.raises(pickle.UnpicklingError) as refused:
        load_metadata(io.BytesIO(content))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_metadata_is_read_as_it_was_written(protocol: int) -> None:
    found = load_metadata(io.BytesIO(pickle.dumps(WHOLE, protocol)))
    assert found == WHOLE
    assert found.storage_data[INDEX].relative_path == "__0_0.distcp"
    assert type(found) is metadata.Metadata
    assert type(next(iter(found.storage_data))) is metadata.MetadataIndex
    assert pickle.dumps(found) == pickle.dumps(WHOLE)


@pytest.mark.parametrize(
    "kind",
    [
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.TensorProperties,
        metadata._MEM_FORMAT_ENCODING,
        planner.WriteItemType,
        filesystem._StorageInfo,
        torch.serialization._get_layout,
    ],
)
def test_no_class_or_function_of_this_process_is_changed(kind: Any) -> None:
    refusal(b"\x80\x02" + named(kind) + MARK)
    assert not hasattr(kind, "marked")


def test_every_truncation_is_refused_in_one_line() -> None:
    content = pickle.dumps(WHOLE)
    for size in range(0, len(content) - 1, 7):
        refusal(content[:size])


@pytest.mark.parametrize("value", [None, 3, {}, [WHOLE], metadata.BytesStorageMetadata(), WHOLE.storage_data])
def test_what_is_no_metadata_is_refused(value: Any) -> None:
    assert ".metadata is damaged" in refusal(pickle.dumps(value))


class TestCommon:
    """common.pt, which torch reads."""

    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        (tmp_path / ".metadata").write_bytes(pickle.dumps(WHOLE))
        torch.save({"progress": {"iteration": 2}, "x": torch.ones(3)}, tmp_path / "common.pt")
        return tmp_path

    def refusal(self, checkpoint: Path) -> str:
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(pickle.UnpicklingError) as refused, pickles_without_code():
            check_pickles(checkpoint)
        assert set(torch.serialization.get_safe_globals()) == before
        return str(refused.value)

    def test_what_torch_and_the_engine_write_is_read(self, checkpoint: Path) -> None:
        with pickles_without_code():
            check_pickles(checkpoint)

    @pytest.mark.parametrize("value", [np.ones(2), np.dtype("u4"), np.dtype([("x", "O")])])
    def test_arrays_of_numpy_are_refused(self, value: Any, checkpoint: Path) -> None:
        """A pickled type may say that numbers are addresses of objects (numpy 2.4, `dtype.__setstate__`)."""
        import megatron.core  # noqa: F401 (which allows them)

        torch.save({"x": value}, checkpoint / "common.pt")
        assert (refused_name(self.refusal(checkpoint)) or "").startswith("numpy")

    @pytest.mark.parametrize("value", [None, [1], 3])
    def test_what_is_no_dictionary_is_refused(self, value: Any, checkpoint: Path) -> None:
        torch.save(value, checkpoint / "common.pt")
        assert self.refusal(checkpoint).startswith("common.pt is damaged (it holds ")

    def test_a_damaged_file_is_one_line(self, checkpoint: Path) -> None:
        path = checkpoint / "common.pt"
        content = path.read_bytes()
        for size in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            assert self.refusal(checkpoint).startswith("common.pt is damaged (")
