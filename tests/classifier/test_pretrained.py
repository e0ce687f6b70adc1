"""Networks of timm, which take the same pixels as ours."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from classifier.checkpoint import Checkpoint, load, save
from classifier.classifier import Classifier
from classifier.networks import Pretrained
from classifier.torch_file import CheckpointError
from training.data import Images

BACKBONE = "tf_efficientnet_lite0"
FIRST = "conv_stem.weight"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    network = Pretrained(BACKBONE, 32)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    arguments = {"backbone": BACKBONE, "side": 32}
    save(Checkpoint("Pretrained", arguments, network.state_dict(), training={"recipe": "pretrained"}), path)
    return path


def test_a_network_of_timm_predicts(path: Path, tiny_images: Images) -> None:
    classifier = Classifier.load(path, "cpu")
    predictions = classifier.predict(tiny_images[:3].array())
    assert len(predictions) == 3
    assert all(sum(prediction["probabilities"].values()) == pytest.approx(1) for prediction in predictions)
    expected = classifier.network(tiny_images[:3].pixels).softmax(dim=1).max(dim=1).values
    assert [prediction["confidence"] for prediction in predictions] == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"backbone": "hf-hub:timm/tf_efficientnet_lite0.in1k"},
        {"backbone": "local-dir:/tmp"},
        {"backbone": "no_such_network"},
        {"backbone": ["tf_efficientnet_lite0"]},
        {"side": 27},
        {"side": 10_000},
        {"side": 32.5},
    ],
    ids=str,
)
def test_a_checkpoint_can_name_only_networks_that_timm_lists(arguments: dict[str, Any], tmp_path: Path) -> None:
    save(Checkpoint("Pretrained", arguments, {}, training={"recipe": "pretrained"}), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"^model\.pt has arguments that Pretrained does not accept\.$"):
        load(tmp_path / "model.pt")


def test_without_timm_the_error_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value) == "model.pt needs the package timm: pip install 'fashion-mnist-service[pretrained]'."


def test_start_copies_weights_for_three_colours_and_a_thousand_classes() -> None:
    torch.manual_seed(1)
    weights = timm.create_model(BACKBONE).state_dict()
    network = Pretrained(BACKBONE)
    network.start(dict(weights))
    started = network.state_dict()
    assert torch.allclose(started[f"backbone.{FIRST}"], weights[FIRST].sum(dim=1, keepdim=True), atol=1e-5)
    assert torch.equal(started["backbone.bn1.weight"], weights["bn1.weight"])
    assert started["backbone.classifier.weight"].shape == (10, weights["classifier.weight"].shape[1])


@pytest.mark.parametrize("other", ["resnet10t", "nothing"])
def test_weights_of_another_network_are_refused(other: str) -> None:
    weights = timm.create_model(other).state_dict() if other != "nothing" else {}
    network = Pretrained(BACKBONE)
    before = network.state_dict()[f"backbone.{FIRST}"].clone()
    with pytest.raises(RuntimeError, match="not the weights of tf_efficientnet_lite0"):
        network.start(weights)
    assert torch.equal(network.state_dict()[f"backbone.{FIRST}"], before)
