"""What tells the model that adapters update from others."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.base_reference import directory_reference
from tests.tiny_models import write_tiny_llama


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "model", sharded=True)
    return tmp_path / "model"


def test_a_copy_elsewhere_is_the_same_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    one, other = directory_reference(model), directory_reference(tmp_path / "copy")
    assert one.fingerprint == other.fingerprint
    assert (one.path, other.path) == (str(model), str(tmp_path / "copy"))


@pytest.mark.parametrize("what", ["weights", "config", "file"])
def test_another_model_has_another_fingerprint(what: str, model: Path) -> None:
    before = directory_reference(model).fingerprint
    path = sorted(model.glob("*.safetensors"))[1]
    if what == "weights":
        tensors = load_file(path)
        save_file({name: tensor * 1.001 for name, tensor in tensors.items()}, path)
    elif what == "config":
        config = model / "config.json"
        config.write_text(config.read_text().replace("1e-05", "1e-06"))
    else:
        path.unlink()
    assert directory_reference(model).fingerprint != before


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 20, b"\x02" + b"\x00" * 7 + b"[]", b"\x05" + b"\x00" * 20]
)
def test_a_damaged_file_is_one_line(content: bytes, model: Path) -> None:
    sorted(model.glob("*.safetensors"))[0].write_bytes(content)
    with pytest.raises(UserError, match=r"a file cannot be read .*; download it again") as refused:
        directory_reference(model)
    assert "\n" not in str(refused.value)
