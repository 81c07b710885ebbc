"""What is written a tensor at a time is what the safetensors library reads, any dtypes in any order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from mmscale.storage.tensor_writing import _NAMES, TensorFile, header_bytes, save_tensors

TENSORS = st.lists(
    st.tuples(st.sampled_from(sorted(_NAMES, key=str)), st.lists(st.integers(0, 5), max_size=3)), max_size=8
)


def bits(value: torch.Tensor) -> bytes:
    return bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist()) if value.numel() else b""


@settings(max_examples=80, deadline=None)
@given(shapes=TENSORS, metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=3))
def test_the_library_reads_what_was_written(tmp_path_factory, shapes, metadata):
    path = tmp_path_factory.mktemp("tensors") / "a.safetensors"
    tensors = {f"t{i}.weight": (torch.rand(shape) * 9).to(dtype) for i, (dtype, shape) in enumerate(shapes)}
    save_tensors(tensors, path, metadata)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert bits(found[name]) == bits(value), name
    with safe_open(path, framework="pt") as file:
        assert (file.metadata() or {}) == metadata
        for name in tensors:
            assert bits(file.get_tensor(name)) == bits(tensors[name])


def test_a_strided_tensor_is_written_in_its_own_order(tmp_path):
    value = torch.arange(12).view(3, 4).T
    save_tensors({"a": value}, tmp_path / "a.safetensors")
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], value)


def test_an_unfinished_file_is_none(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt), TensorFile(path, header_bytes(["a"])) as file:
        file.add("a", torch.ones(3))
        raise KeyboardInterrupt
    with pytest.raises(Exception, match=r"(?i)header|invalid"):
        load_file(path)


def test_what_the_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"safetensors has no torch.complex32 \(z\)"):
        save_tensors({"z": torch.zeros(1, dtype=torch.complex32)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not fit the 8 that were left"), TensorFile(tmp_path / "b", 8) as file:
        file.add("a", torch.ones(3))
