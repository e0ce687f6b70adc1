"""GET /model: what the checkpoints say about themselves, within limits."""

import json
import os
from math import inf, nan
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from classifier.checkpoint import Checkpoint, load, save
from classifier.networks import CLASSES, Net
from service.model_cards import MAX_TEXT, MAX_VALUES, Cleaner
from service.settings import Settings
from tests.service.conftest import poll, serving

MAX_BYTES = 40_000


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def count(value: Any) -> int:
    """Values in a nested value, itself included."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, items))


def page_of(training: dict[str, Any], metrics: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """The answer's text, and the network in it, for a checkpoint that says this about itself."""
    weights = Net().state_dict()
    save(Checkpoint("Net", {}, weights, metrics=metrics, training={"recipe": "odd", **training}), folder / "odd.pt")
    with serving(Settings(model=folder / "odd.pt", max_batch=1)) as client:
        answer = client.get("/model")
    assert answer.status_code == 200
    [network] = json.loads(answer.text, parse_constant=refuse)["networks"]
    return answer.text, network


def test_both_networks_are_described(tiny_checkpoint: Path, photo_checkpoint: Path) -> None:
    with serving(Settings(model=tiny_checkpoint, photo_model=photo_checkpoint, max_upload_bytes=1234)) as client:
        page = client.get("/model").json()
        health = client.get("/health").json()
    assert page["classes"] == list(CLASSES)
    assert page["max_upload_bytes"] == 1234
    tiny, photos = page["networks"]
    assert (tiny["model"], photos["model"]) == (health["model"], health["photo_model"])
    for network, path in (tiny, tiny_checkpoint), (photos, photo_checkpoint):
        checkpoint = load(path)
        assert network["sha256"] == checkpoint.sha256
        assert network["architecture"] == checkpoint.architecture
        assert network["parameters"] == checkpoint.parameters
        assert network["temperature"] == checkpoint.calibration["temperature"]
        assert network["metrics"] == checkpoint.metrics
        assert all(sentence.endswith(".") for sentence in network["limits"])
    assert (tiny["input"], photos["input"]) == ([1, 28, 28], [3, 160, 160])
    assert photos["multiply_adds"] == 195_884_000
    assert tiny["training"] == {"recipe": "tiny", "seed": 0}  # without its history
    shape = torch.tensor(photos["first_layer"]["weights"]).shape
    assert (shape, photos["first_layer"]["stride"]) == ((32, 3, 3, 3), 2)


def test_the_shipped_networks_are_described_in_full() -> None:
    settings = Settings(model=Path("models/model_scratch.pt"), photo_model=Path("models/photos.pt"), max_batch=1)
    with serving(settings) as client:
        answer = client.get("/model")
    assert len(answer.content) < MAX_BYTES
    for network, name in zip(answer.json()["networks"], ("model_scratch", "photos"), strict=True):
        checkpoint = load(Path(f"models/{name}.pt"))
        assert network["metrics"] == checkpoint.metrics
        expected = {key: value for key, value in checkpoint.training.items() if key != "history"}
        assert network["training"] == json.loads(json.dumps(expected))
        assert network["arguments"] == json.loads(json.dumps(checkpoint.arguments))


def test_a_new_model_changes_the_etag(settings: Settings, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "served.pt").write_bytes(tiny_checkpoint.read_bytes())
    with serving(settings.model_copy(update={"model": tmp_path / "served.pt"})) as client:
        etag = client.get("/model").headers["ETag"]
        assert client.get("/model").headers["ETag"] == etag
        save(Checkpoint("Net", {}, Net().state_dict(), training={"recipe": "next"}), tmp_path / "next.pt")
        os.replace(tmp_path / "next.pt", tmp_path / "served.pt")
        for _ in poll():
            if client.get("/health").json()["model"].startswith("next-"):
                break
        answer = client.get("/model", headers={"If-None-Match": etag})
        assert answer.status_code == 200
        assert answer.json()["networks"][0]["model"].startswith("next-")
        explained = client.post("/explain", content=Path("shoe.png").read_bytes()).json()
        assert explained["model"].startswith("next-")


def test_a_strangers_values_are_limited(tmp_path: Path) -> None:
    deep: Any = "end"
    for _ in range(20):
        deep = [deep]
    training = {
        "commit": "x" * 10_000,
        "device": "/home/somebody/secret/gpu",
        "photos": "C:\\Users\\somebody\\photos",
        "seconds": inf,
        "seed": 10**400,
        "epochs": torch.ones(3),
        "settings": {f"key{number}": ["y" * 200] * 100 for number in range(100)},
        "versions": deep,
        "history": [{"images": 1}] * 100,
        "password": "swordfish",
    }
    metrics = {"loss": nan, "z" * 500: 1.0, "a": {"b": {"c": {"d": {"e": {"f": 1}}}}}, "é\n": "<b>\x00é\n"}
    text, network = page_of(training, metrics, tmp_path)
    assert len(text) < MAX_BYTES
    assert network["model"].startswith("odd-")
    for word in ("somebody", "secret", "swordfish", "history", "y" * 100, str(tmp_path)):
        assert word not in text
    assert network["training"]["device"] == "gpu"
    assert network["training"]["photos"] == "photos"
    assert len(network["training"]["commit"]) <= MAX_TEXT + len("...")
    assert [network["training"][name] for name in ("seconds", "seed", "epochs")] == [None] * 3
    assert network["metrics"]["loss"] is None
    assert network["metrics"]["\\xe9\\n"] == "<b>\\x00\\xe9\\n"
    assert count(network["training"]) + count(network["metrics"]) <= MAX_VALUES


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        (None, None), (True, True), (3, 3), (2**53 + 2, None), (-0.5, -0.5), (nan, None), (-inf, None),
        ("T-shirt/top", "T-shirt/top"), ("a/b/c", "c"), ("../../etc/passwd", "passwd"), ("\\\\host\\share", "share"),
        ((1, (2, 3)), [1, [2, 3]]), ({"a": {1: 2}, 3: 4}, {"a": {}}), ({1, 2}, None), (b"bytes", None),
        ([[[[[1]]]]], [[[[None]]]]), (torch.ones(2), None),
    ],
)  # fmt: skip
def test_a_value_is_cleaned(value: object, cleaned: object) -> None:
    assert Cleaner()(value) == cleaned


def test_values_over_the_limit_are_left_out() -> None:
    assert count(Cleaner()([[[1] * 30] * 30] * 30)) <= MAX_VALUES
    assert len(Cleaner()([1] * 1_000)) == 40


def test_the_page_names_no_folder(client: httpx.Client, tiny_checkpoint: Path) -> None:
    text = client.get("/model").text
    assert str(tiny_checkpoint.parent) not in text
    assert tiny_checkpoint.name not in text
