"""Damaged, foreign and hostile checkpoints: each is refused with one sentence, and nothing in it is executed."""

import io
import pickle
import random
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError, load, save
from classifier.classifier import Classifier
from classifier.networks import CLASSES, ConvNet, Net

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")
FIRST = "filters.weight"  # the first tensor of a ConvNet
WIDTHS = (3, 4)


class Harm:
    """An object that creates a file when it is unpickled without `weights_only`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def content(**changes: Any) -> dict[str, Any]:
    """The dict of a good checkpoint, with changes."""
    good = {
        "format": checkpoints.FORMAT,
        "architecture": {"name": "ConvNet", "arguments": {"widths": WIDTHS}},
        "state_dict": dict(ConvNet(WIDTHS).state_dict()),
        "classes": list(CLASSES),
        "calibration": {"temperature": 1.0},
        "metrics": {},
        "training": {"recipe": "tiny"},
    }
    return good | changes


def weights(first: Any) -> dict[str, Any]:
    return content(state_dict={**ConvNet(WIDTHS).state_dict(), FIRST: first})


def shadowed(mapping: dict[str, Any]) -> OrderedDict[str, Any]:
    """An OrderedDict with an attribute `keys` that hides its method, as a file can make it."""
    ordered = OrderedDict(mapping)
    ordered.keys = 5  # type: ignore[method-assign, assignment]
    return ordered


def with_attribute(tensor: torch.Tensor) -> torch.Tensor:
    tensor.isfinite = 5  # type: ignore[method-assign, assignment]
    return tensor


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def unzipped(file: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    sentence = str(caught.value)
    assert path.name in sentence
    assert str(path.parent) not in sentence
    assert "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.pt"
    torch.manual_seed(0)
    save(Checkpoint("ConvNet", {"widths": WIDTHS}, ConvNet(WIDTHS).state_dict(), training={"recipe": "tiny"}), path)
    return path.read_bytes()


def test_a_truncated_file_is_refused(tmp_path: Path, good_file: bytes) -> None:
    path = tmp_path / "short.pt"
    lengths = {*random.Random(0).sample(range(len(good_file)), 300), *range(len(good_file) - 1024, len(good_file))}
    for length in sorted(lengths, reverse=True):
        path.write_bytes(good_file[:length])
        refusal(path)


@pytest.mark.parametrize("part", ["file", "pickle"])
def test_a_file_with_changed_bytes_is_refused_or_harmless(tmp_path: Path, good_file: bytes, part: str) -> None:
    generator = random.Random(0)
    members = unzipped(good_file)
    [name] = [name for name in members if name.endswith("data.pkl")]
    for _ in range(400):
        changed = bytearray(good_file if part == "file" else members[name])
        for _ in range(generator.choice((1, 1, 3))):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        changed_file = changed if part == "file" else zipped({**members, name: bytes(changed)})
        (tmp_path / "changed.pt").write_bytes(changed_file)
        with suppress(CheckpointError):
            Classifier(load(tmp_path / "changed.pt"), torch.device("cpu")).smoke_test("x.pt")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "is empty"),
        (b"\xcd\x07\x2c\xd8" + random.Random(0).randbytes(5_000), "unknown format (its first bytes are cd 07 2c d8)"),
        (b"PK\x03\x04" + random.Random(0).randbytes(5_000), "cut short or damaged"),
        (pickle.dumps({"format": 1}), "a pickle of Python"),
        (
            b"PK\x03\x04" + b"PK\x06\x07" + b"\x09" * 16 + b"PK\x05\x06" + b"\xff" * 16 + b"\0\0",
            "cut short or damaged",
        ),
        (zipped({}), "unknown format"),
        (b"prefix" + zipped({"a/data.pkl": pickle.dumps([1]), "a/version": b"3\n"}), "unknown format"),
        (zipped({"shoe.txt": b"shoe"}), "a zip archive without a checkpoint"),
        (zipped({"a/data.pkl": b"", "a/version": b"3\n"}), "no checkpoint can be read"),
        (zipped({"a/data.pkl": pickle.dumps([1]), "a/version": b"3"}), "the pickle operation FRAME"),
        (zipped({"a/data.pkl": pickle.dumps([1]), "a/version": b"3\n"}, zipfile.ZIP_DEFLATED), "compressed"),
    ],
    ids=range(11),
)
def test_other_files_are_refused(tmp_path: Path, file: bytes, sentence: str) -> None:
    (tmp_path / "other.pt").write_bytes(file)
    assert sentence in refusal(tmp_path / "other.pt")


def test_a_damaged_part_is_named(tmp_path: Path, good_file: bytes) -> None:
    at = good_file.index(b"T-shirt")
    (tmp_path / "damaged.pt").write_bytes(good_file[:at] + b"X" + good_file[at + 1 :])
    assert "data.pkl' is wrong" in refusal(tmp_path / "damaged.pt")


def test_a_tensor_with_too_few_bytes_is_refused(tmp_path: Path, good_file: bytes) -> None:
    members = unzipped(good_file)
    [name] = [name for name in members if name.endswith("data/0")]
    (tmp_path / "short.pt").write_bytes(zipped({**members, name: members[name][:4]}))
    refusal(tmp_path / "short.pt")


@pytest.mark.parametrize("place", ["state_dict", "training", "metrics"])
def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path: Path, place: str) -> None:
    torch.save(content(**{place: {"recipe": Harm(tmp_path / "harm")}}), tmp_path / "harmful.pt")
    assert "nothing in it was run" in refusal(tmp_path / "harmful.pt")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "harmful.pt", weights_only=False)  # the code works
    assert (tmp_path / "harm").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "network.pt")
    assert "model.state_dict()" in refusal(tmp_path / "network.pt")


NET_WEIGHTS = dict(Net().state_dict())


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([1], "has a list in it"),
        (torch.ones(1), "has a Tensor in it"),
        ({}, "no dict of tensors"),
        (shadowed({}), "no dict of tensors"),
        *[({**content(), key: None}, f"no valid '{key}'") for key in content()],
        (content(format=True), "no valid 'format'"),
        (content(format=2), "has format 2; this version reads format 1"),
        (content(classes=["cat", "dog"]), "other classes"),
        (content(classes=[torch.ones(2)] * 10), "other classes"),
        *[(content(calibration={"temperature": t}), "temperature") for t in (0.0, -1.0, 1e9, float("nan"), "1", None)],
        (content(calibration={}), "temperature"),
        (
            content(calibration={"temperature": 1.0, "set_0.95": 0.1}),
            "thresholds of prediction sets and of familiarity",
        ),
        (content(training={}), "recipe"),
        (content(training={"recipe": "<b>\n"}), "recipe"),
        (content(training={"recipe": "x" * 41}), "recipe"),
        (content(architecture={}), "known are Net, ConvNet"),
        (content(architecture={"name": "ResNet", "arguments": {}}), "known are Net, ConvNet"),
        (content(architecture={"name": ["Net"], "arguments": {}}), "known are Net, ConvNet"),
        (content(architecture={"name": "Net", "arguments": [1]}), "known are Net, ConvNet"),
        (content(state_dict={}), "22 tensors of a ConvNet"),
        (content(state_dict=content()["state_dict"] | {"more": torch.ones(1)}), "22 tensors of a ConvNet"),
        (content(state_dict=shadowed(content()["state_dict"])), "no valid 'state_dict'"),
        (weights(torch.ones(18, 1, 5, 5)), "of shape [18, 1, 5, 5]; ConvNet expects [18, 1, 3, 3]"),
        (weights(torch.full((18, 1, 3, 3), float("nan"))), f"not finite, under '{FIRST}'"),
        (weights(torch.full((18, 1, 3, 3), float("-inf"))), f"not finite, under '{FIRST}'"),
        (weights(torch.full((18, 1, 3, 3), 1e300, dtype=torch.float64)), f"not finite, under '{FIRST}'"),
        (weights(torch.ones(18, 1, 3, 3, dtype=torch.int64)), "torch.int64; expected torch.float32"),
        (weights(torch.ones(18, 1, 3, 3, dtype=torch.complex64)), "torch.ComplexFloatStorage"),
        (weights(torch.ones(18, 1, 3, 3).to_sparse()), "_rebuild_sparse_tensor"),
        (weights(torch.ones(18, 1, 3, 3, device="meta")), "_rebuild_meta_tensor_no_storage"),
        (weights(torch.ones(18, 1, 3, 6)[..., ::2]), "gaps or shared elements"),
        (weights(torch.ones(3).expand(18, 1, 3, 3)), "a tensor of 162 elements on a storage of 3"),
        (weights([1.0]), "no tensor under"),
        (weights(with_attribute(torch.full((18, 1, 3, 3), float("nan")))), "_rebuild_from_type_v2"),
        (NET_WEIGHTS | {"conv1.bias": torch.ones(7)}, "of shape [7]; Net expects [6]"),
        (NET_WEIGHTS | {"conv1.bias": torch.full((6,), float("inf"))}, "not finite"),
        ({name: tensor for name, tensor in NET_WEIGHTS.items() if name != "ff2.bias"}, "has no 'ff2.bias'"),
    ],
)
def test_wrong_content_is_refused_and_named(tmp_path: Path, found: Any, sentence: str) -> None:
    torch.save(found, tmp_path / "wrong.pt")
    assert sentence in refusal(tmp_path / "wrong.pt")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[("ConvNet", {"widths": w}) for w in ((10**30, 1), (4096,) * 2, (2, 3, 4), (2.0, 3), "abc", torch.ones(3))],
        *[("ConvNet", {"dropout": d}) for d in ("x", -1, float("nan"), torch.ones(1), torch.ones(2))],
        ("ConvNet", {1: 2}),
        ("ConvNet", {"depth": 3}),
        *[("Net", {"sigmoid": s}) for s in ("no", None, torch.ones(2))],
    ],
)
def test_arguments_that_the_network_does_not_accept_are_refused(
    tmp_path: Path, name: str, arguments: dict[Any, Any]
) -> None:
    network = {"ConvNet": ConvNet(WIDTHS), "Net": Net()}[name]
    architecture = {"name": name, "arguments": arguments}
    torch.save(content(architecture=architecture, state_dict=dict(network.state_dict())), tmp_path / "wrong.pt")
    refusal(tmp_path / "wrong.pt")
