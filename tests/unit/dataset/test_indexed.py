import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.indexed import IndexedReader, IndexedWriter, bin_path, idx_path

ROWS = [[1, 2, 3], [-100, 65_000], [7]]


def write(prefix: Path, chunks: list[list[list[int]]]) -> None:
    with bin_path(prefix).open("wb") as bin_file, idx_path(prefix).open("wb") as idx_file:
        writer = IndexedWriter(bin_file, idx_file)
        for rows in chunks:
            lengths = np.array([len(row) for row in rows], np.int32)
            writer.append(np.array([value for row in rows for value in row], np.int32), lengths)
        writer.finish()


def test_megatron_core_reads_what_is_written(tmp_path: Path) -> None:
    write(tmp_path / "x", [ROWS[:2], [], ROWS[2:]])
    dataset = IndexedDataset(str(tmp_path / "x"))
    assert [row.tolist() for row in dataset] == ROWS
    assert dataset.document_indices.tolist() == [0, 1, 2, 3]
    assert dataset.index.dtype is np.int32


def test_rows_that_go_to_the_disk_meanwhile_are_whole(tmp_path: Path) -> None:
    rows = np.arange(9 << 20, dtype=np.int32)  # 36 MiB, begun to be written after every 8
    with bin_path(tmp_path / "x").open("wb") as bin_file, idx_path(tmp_path / "x").open("wb") as idx_file:
        writer = IndexedWriter(bin_file, idx_file)
        for part in np.split(rows, 36):
            writer.append(part, np.array([len(part)], np.int32))
        entry, _ = writer.finish()
    reader = IndexedReader(tmp_path / "x")
    assert np.array_equal(np.concatenate([reader[i] for i in range(len(reader))]), rows)
    assert entry.sha256 == hashlib.sha256(rows.tobytes()).hexdigest()


def test_files_are_those_that_megatron_core_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write(tmp_path / "ours", [ROWS])
    builder = IndexedDatasetBuilder(str(bin_path(tmp_path / "theirs")), dtype=np.int32)
    for row in ROWS:
        builder.add_item(torch.tensor(row, dtype=torch.int32))
        builder.end_document()
    builder.finalize(str(idx_path(tmp_path / "theirs")))
    for path in (bin_path, idx_path):
        assert path(tmp_path / "ours").read_bytes() == path(tmp_path / "theirs").read_bytes()


def test_reader_gives_the_rows_back(tmp_path: Path) -> None:
    write(tmp_path / "x", [ROWS])
    reader = IndexedReader(tmp_path / "x")
    assert len(reader) == 3
    assert reader.lengths.tolist() == [3, 2, 1]
    assert [reader[i].tolist() for i in range(3)] == ROWS
    assert reader[0].dtype == np.int32
    assert not reader[0].flags.owndata
    with pytest.raises(IndexError):
        reader[3]


def test_reader_takes_modellinks_empty_documents_for_no_rows(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    builder = IndexedDatasetBuilder(str(bin_path(tmp_path / "x")), dtype=np.int32)
    builder.end_document()  # a dropped row
    for row in ROWS:
        builder.add_item(torch.tensor(row, dtype=torch.int32))
        builder.end_document()
        builder.end_document()
    builder.finalize(str(idx_path(tmp_path / "x")))
    reader = IndexedReader(tmp_path / "x")
    assert [reader[i].tolist() for i in range(len(reader))] == ROWS


def test_no_rows_at_all_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "x", [])
    assert len(IndexedReader(tmp_path / "x")) == 0


def test_an_index_of_several_blocks_is_megatron_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modellink_rm.dataset.indexed._BLOCK_ROWS", 2)
    rows = [[i] * (i % 3 + 1) for i in range(7)]
    write(tmp_path / "x", [rows[:4], rows[4:]])
    dataset = IndexedDataset(str(tmp_path / "x"))
    assert [row.tolist() for row in dataset] == rows
    assert dataset.document_indices.tolist() == list(range(8))


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def overwrite(path: Path, offset: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: bin_path(p).unlink(), r"x.bin cannot be read"),
        (lambda p: idx_path(p).unlink(), r"x.idx cannot be read"),
        (lambda p: cut(bin_path(p), 4), r"x.bin is damaged: it has 5 values, its .idx says 6"),
        (lambda p: cut(bin_path(p), 1), r"x.bin is damaged: its 23 bytes"),
        (lambda p: cut(idx_path(p), 1), r"x.idx is damaged"),
        (lambda p: idx_path(p).write_bytes(b"MMIDIDX"), r"x.idx is cut off"),
        (lambda p: overwrite(idx_path(p), 0, b"X"), r"x.idx is not a Megatron indexed dataset"),
        (
            lambda p: overwrite(idx_path(p), 9, struct.pack("<Q", 2)),
            r"x.idx is not a Megatron indexed dataset",
        ),
        (lambda p: overwrite(idx_path(p), 17, b"\x08"), r"x.idx holds values of Megatron's dtype code 8"),
        (
            lambda p: overwrite(idx_path(p), 34 + 12, struct.pack("<q", -4)),
            r"x.idx is damaged: it points outside",
        ),
        (
            lambda p: overwrite(idx_path(p), 34 + 12, struct.pack("<q", 400)),
            r"x.idx is damaged: it points outside",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    write(tmp_path / "x", [ROWS])
    damage(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        IndexedReader(tmp_path / "x")
