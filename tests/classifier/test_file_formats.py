import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save as save_safetensors

from classifier.checkpoint import CheckpointError, load
from classifier.networks import Net


def old_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save(Net().state_dict(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), buffer)
    return buffer.getvalue()


def onnx_model() -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    model: bytes = helper.make_model(graph).SerializeToString()
    return model


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def zipped(compression: int) -> bytes:
    inside, outside = io.BytesIO(), io.BytesIO()
    torch.save(Net().state_dict(), inside)
    with zipfile.ZipFile(outside, "w", compression) as archive:
        archive.writestr("model.pt", inside.getvalue())
    return outside.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "words", "advice"),
    [
        (old_torch, "in the format of PyTorch before 1.6", "torch.save(model.state_dict(), PATH)"),
        (torchscript, "a TorchScript module", "torch.jit.load"),
        (exported, "an exported program (torch.export)", "torch.save(model.state_dict(), PATH)"),
        (onnx_model, "an ONNX model", "torch.save(model.state_dict(), PATH)"),
        (npz, "an archive of NumPy arrays", "torch.save(model.state_dict(), PATH)"),
        (npy, "a NumPy array", "torch.save(model.state_dict(), PATH)"),
        (lambda: zipped(zipfile.ZIP_STORED), "a zip archive around a checkpoint", "unpack it first"),
        (lambda: zipped(zipfile.ZIP_DEFLATED), "a zip archive around a checkpoint", "unpack it first"),
        (tar, "a tar archive", "unpack it first"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(2000), "an HDF5 file, as Keras", "with PyTorch"),
        (lambda: b"\n<!DOCTYPE html><html>404", "an HTML page", "download the file itself"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 5\n", "a Git LFS", "git lfs pull"),
        (lambda: b"\x1f\x8b\x08\x00" + bytes(20), "compressed with gzip", "decompress it"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture", "name the checkpoint"),
        (lambda: json.dumps({"a": 1}).encode(), "a text file", "name the checkpoint"),
        (lambda: bytes(100), "unknown format (its first bytes are 00 00 00 00)", "torch.save"),
    ],
)  # fmt: skip
def test_a_foreign_format_is_named_with_a_remedy(
    make: Callable[[], bytes], words: str, advice: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(make())
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "model.pt")
    assert words in str(caught.value)
    assert advice in str(caught.value)


def test_safetensors_of_the_tutorials_net_loads(tmp_path: Path) -> None:
    network = Net()
    (tmp_path / "model.safetensors").write_bytes(save_safetensors(network.state_dict()))
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.architecture == "Net"
    assert all(torch.equal(loaded.state_dict[name], each) for name, each in network.state_dict().items())


def test_without_the_library_a_safetensors_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(save_safetensors(Net().state_dict()))
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(CheckpointError, match=r"is a safetensors file: pip install safetensors, or save it with torch"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize("change", [slice(0, 60), slice(0, -5)], ids=["header", "data"])
def test_a_damaged_safetensors_file_is_one_sentence(change: slice, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save_safetensors(Net().state_dict())[change])
    with pytest.raises(CheckpointError, match=r"^model\.safetensors is "):
        load(tmp_path / "model.safetensors")


def test_onnx_writes_what_the_signature_expects() -> None:
    assert onnx.load_model_from_string(onnx_model()).ir_version >= 3
