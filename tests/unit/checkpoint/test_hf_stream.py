"""A safetensors file that is written tensor by tensor is read by the library as it was given."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modellink_rm.checkpoint.hf.stream import SafetensorsWriter, TensorType


def test_tensors_of_mixed_types_in_any_order_are_read_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors = {
        "odd": torch.randn(3, 1).bfloat16(),
        "head": torch.randn(1, 5),
        "half": torch.randn(7).half(),
        "scalar": torch.tensor(2.5),
    }
    types = {name: TensorType(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with SafetensorsWriter(tmp_path / "x.safetensors", types) as writer:
        for name in ("scalar", "odd", "half", "head"):
            writer.write(name, tensors[name])
    got = load_file(tmp_path / "x.safetensors")
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


def test_tensor_is_converted_to_the_type_of_the_header(tmp_path: Path) -> None:
    tensor = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    with SafetensorsWriter(tmp_path / "x", {"a": TensorType((6, 4), torch.bfloat16)}) as writer:
        writer.write("a", tensor.T)
    assert torch.equal(load_file(tmp_path / "x")["a"], tensor.T.bfloat16())


def test_file_that_lacks_a_tensor_is_not_taken_for_whole(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="never written"),
        SafetensorsWriter(tmp_path / "x", {"a": TensorType((2,), torch.float32)}),
    ):
        pass
