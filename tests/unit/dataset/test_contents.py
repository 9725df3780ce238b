"""A data set whose bytes are not those that were written is refused, when they are read at the latest."""

import json
import os
import shutil
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError, run_command
from modellink_rm.base.log import warn_once
from modellink_rm.commands.inspect import main as inspect_main
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.dataset import dataset as dataset_module
from modellink_rm.dataset.dataset import Dataset, open_dataset
from modellink_rm.dataset.manifest import checksums_path, data_files, manifest_path, read_manifest
from modellink_rm.dataset.row_files import RowFiles


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sentencepiece_path: Path) -> Path:
    """Rankings with margins and sources: a data set of every array and column."""
    directory = tmp_path_factory.mktemp("made")
    records = [
        {
            "prompt": f"question {i}",
            "responses": [f"{word} " * (i % 9 + 1) for word in ("good", "fair", "bad")],
            "ratings": [3, 2, 1],
            "set": f"source {i % 3}",
        }
        for i in range(60)
    ]
    (directory / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    write(directory / "in.jsonl", directory / "x", sentencepiece_path)
    return directory / "x"


def write(source: Path, prefix: Path, tokenizer: Path) -> None:
    words = f"--input {source} --output-prefix {prefix} --handler-name RankedResponsesHandler"
    words += f" --prompt-type llama2 --tokenizer-model {tokenizer}"
    flags = ["--map-keys", '{"source": "set"}']
    assert run_command(preprocess_main, [*words.split(), *flags]) == 0


@pytest.fixture
def prefix(made: Path, tmp_path: Path) -> Path:
    for path in made.parent.glob("x_*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "x"


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def read_all(dataset: Dataset) -> list[object]:
    rows = dataset.rows
    return [
        (
            [response.input_ids.tolist() for response in rows.responses(row)],
            rows.ranks_of(row),
            rows.margins(row),
            rows.source(row),
        )
        for row in range(len(dataset))
    ]


def files_of(prefix: Path) -> list[Path]:
    return sorted(prefix.parent.glob("x_*"))


def test_a_flipped_bit_in_any_file_is_refused_by_its_name(prefix: Path) -> None:
    assert len(files_of(prefix)) == 8 + 2 * 3 + 2
    read_all(open_dataset(prefix))
    for path in files_of(prefix):
        num_bits = 8 * path.stat().st_size
        for number in range(5):
            bit = (number * 7919 + 4241) % num_bits
            if path == manifest_path(prefix) and path.read_bytes()[bit // 8 :][:1].isspace():
                continue  # between values, where it says nothing
            flip(path, bit)
            with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
                read_all(open_dataset(prefix))
            flip(path, bit)
    read_all(open_dataset(prefix))


def test_files_of_two_runs_of_one_size_are_refused_together(
    prefix: Path, made: Path, tmp_path: Path, sentencepiece_path: Path
) -> None:
    text = (made.parent / "in.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(text.replace("good ", "fair "))
    (tmp_path / "other").mkdir()
    write(tmp_path / "other.jsonl", tmp_path / "other" / "x", sentencepiece_path)
    for path in data_files(prefix)[:2]:
        shutil.copy(tmp_path / "other" / path.name, path)
    with pytest.raises(UserError, match="chosen_input_ids"):
        read_all(open_dataset(prefix))


def test_checksums_of_blocks_belong_to_the_data_set(prefix: Path) -> None:
    checksums_path(prefix).unlink()
    with pytest.raises(UserError, match=r"x_checksums\.crc32 is missing"):
        open_dataset(prefix)


def test_nothing_is_compared_where_the_storage_is_trusted(prefix: Path) -> None:
    path = data_files(prefix)[0]
    before = read_all(open_dataset(prefix))
    flip(path, 12345)
    assert read_all(open_dataset(prefix, verifies=False)) != before


def as_version_1(prefix: Path) -> None:
    """What an earlier package wrote."""
    content = json.loads(manifest_path(prefix).read_text())
    del content["checksum"], content["files"]["_checksums.crc32"]
    manifest_path(prefix).write_text(json.dumps({**content, "format_version": 1}))
    checksums_path(prefix).unlink()


def test_older_data_is_read_and_says_what_is_not_verified(
    prefix: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_all(open_dataset(prefix))
    as_version_1(prefix)
    warn_once.cache_clear()
    assert read_all(open_dataset(prefix)) == before
    assert "is not verified; `python -m modellink_rm inspect" in caplog.text
    flip(data_files(prefix)[1], 500)
    with pytest.raises(UserError, match=r"chosen_input_ids_document\.idx has changed"):
        open_dataset(prefix)


@pytest.mark.parametrize("is_older", [False, True])
def test_inspect_verifies_the_contents_of_every_file(
    prefix: Path, capsys: pytest.CaptureFixture[str], is_older: bool
) -> None:
    if is_older:
        as_version_1(prefix)
    assert run_command(inspect_main, [str(prefix), "--rows", "0", "--verify"]) == 0
    assert "every file is what was written" in capsys.readouterr().out
    flip(data_files(prefix)[2], 12345)
    assert run_command(inspect_main, [str(prefix), "--rows", "0", "--verify"]) == 2
    assert "chosen_labels_document.bin has changed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/etc/x.bin", "/../x.bin", "..\\x.bin"])
def test_names_of_a_manifest_stay_in_its_directory(prefix: Path, name: str) -> None:
    as_version_1(prefix)
    content = json.loads(manifest_path(prefix).read_text())
    content["files"][name] = {"size": 0, "sha256": ""}
    manifest_path(prefix).write_text(json.dumps(content))
    with pytest.raises(UserError, match="is a path, not the end of a file's name"):
        open_dataset(prefix)


def test_a_data_set_that_is_replaced_while_it_is_opened_is_refused(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_and_replace(*arguments: object) -> RowFiles:
        rows = RowFiles.open(*arguments)  # type: ignore[arg-type]
        copy = manifest_path(prefix).with_name("copy")
        shutil.copy(manifest_path(prefix), copy)
        os.replace(copy, manifest_path(prefix))
        return rows

    class Replaced:
        open = staticmethod(open_and_replace)

    monkeypatch.setattr(dataset_module, "RowFiles", Replaced)
    with pytest.raises(UserError, match="written anew while the data set was opened"):
        open_dataset(prefix)


def test_an_open_data_set_stays_whole_while_it_is_replaced(
    prefix: Path, made: Path, tmp_path: Path, sentencepiece_path: Path
) -> None:
    dataset = open_dataset(prefix)
    (tmp_path / "other.jsonl").write_text((made.parent / "in.jsonl").read_text().replace("good ", "fair "))
    write(tmp_path / "other.jsonl", prefix, sentencepiece_path)
    assert read_all(dataset) == read_all(open_dataset(made))
    assert read_all(dataset) != read_all(open_dataset(prefix))
    assert read_manifest(prefix) != dataset.manifest
