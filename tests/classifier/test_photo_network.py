"""PhotoNet computes the same features as timm's tf_efficientnet_lite0, from whose weights it starts."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from classifier.checkpoint import Checkpoint, CheckpointError, build, load, save
from classifier.classifier import Classifier
from classifier.photo_network import MIDDLE, PhotoNet
from classifier.pixels import CLASSES, PHOTO_SHAPE
from tests.classifier.test_graph import random_photos

PARAMETERS = 3_383_818


@pytest.fixture(scope="module")
def network() -> PhotoNet:
    network = PhotoNet(dropout=0.5)
    network.start(timm_network().state_dict())
    return network.eval()


def timm_network() -> nn.Module:
    """timm's network with random weights, scales and batch statistics, in evaluation mode."""
    torch.manual_seed(1)
    network: nn.Module = timm.create_model(PhotoNet.name)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert isinstance(layer.running_mean, Tensor)
            assert isinstance(layer.running_var, Tensor)
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def features(network: PhotoNet, photos: Tensor) -> Tensor:
    """What the last layer gets, float32 [N,1280]."""
    found: list[Tensor] = []
    handle = network.classifier.register_forward_hook(lambda module, inputs, output: found.append(inputs[0]))
    with torch.inference_mode():
        network.eval()(photos)
    handle.remove()
    return found[0]


def test_the_features_are_those_of_timm() -> None:
    theirs, ours, photos = timm_network(), PhotoNet(), torch.from_numpy(random_photos(3))
    ours.start(theirs.state_dict())
    with torch.inference_mode():
        pixels = (photos.float() - MIDDLE) / MIDDLE
        expected = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True)  # type: ignore[operator]
    found = features(ours, photos)
    assert found.shape == (3, 1_280)
    assert expected.std(dim=0).mean() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_start_copies_all_weights_but_those_of_the_last_layer() -> None:
    theirs, ours = timm_network().state_dict(), PhotoNet()
    last = {name: value.clone() for name, value in ours.classifier.state_dict().items()}
    ours.start(theirs)
    started = ours.state_dict()
    assert started.keys() == theirs.keys()
    assert all(torch.equal(started[name], theirs[name]) for name in theirs if not name.startswith("classifier."))
    assert all(torch.equal(started[f"classifier.{name}"], value) for name, value in last.items())


@pytest.mark.parametrize("other", ["resnet10t", "tf_efficientnet_lite1", "mobilenetv2_100", "nothing"])
def test_start_refuses_the_weights_of_another_network(other: str) -> None:
    weights = timm.create_model(other).state_dict() if other != "nothing" else {}
    with pytest.raises(RuntimeError):
        PhotoNet().start(weights)


@pytest.mark.parametrize("dropout", [0, 0.0, 0.2, 1])
def test_dropout_from_0_to_1_is_accepted(dropout: float) -> None:
    assert PhotoNet(dropout).dropout.p == dropout


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan"), "0.2", None, [0.2], torch.ones(1)])
def test_any_other_dropout_is_refused(dropout: Any) -> None:
    with pytest.raises(ValueError, match="dropout must be from 0 to 1"):
        PhotoNet(dropout)


def test_dropout_acts_in_training_mode_only(network: PhotoNet) -> None:
    photos = torch.from_numpy(random_photos(2))
    with torch.inference_mode():
        assert torch.equal(network(photos), network(photos))
        network.dropout.train()
        assert not torch.equal(network(photos), network(photos))
        network.eval()


def test_the_network_has_its_documented_size() -> None:
    assert sum(parameter.numel() for parameter in PhotoNet().parameters()) == PARAMETERS


def test_photos_give_float32_logits_that_do_not_depend_on_the_batch(network: PhotoNet) -> None:
    photos = torch.from_numpy(random_photos(3))
    with torch.inference_mode():
        logits = network(photos)
        alone = torch.cat([network(photo[None]) for photo in photos])
    assert (logits.shape, logits.dtype) == ((3, len(CLASSES)), torch.float32)
    torch.testing.assert_close(logits, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_of_the_photo_network_predicts_photos(
    network: PhotoNet, tmp_path: Path, dtype: torch.dtype
) -> None:
    stored = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    save(Checkpoint("PhotoNet", {"dropout": 0.2}, stored, training={"recipe": "photos"}), tmp_path / "photos.pt")
    classifier = Classifier.load(tmp_path / "photos.pt", "cpu", precision="float32")
    assert (classifier.shape, classifier.runtime) == (PHOTO_SHAPE, "openvino")
    photos = random_photos(2)
    with torch.inference_mode():
        expected = (
            build(load(tmp_path / "photos.pt"))(torch.from_numpy(photos)).softmax(dim=1).max(dim=1).values.tolist()
        )
    assert [found["confidence"] for found in classifier.predict(photos)] == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_with_another_dropout_is_refused(tmp_path: Path) -> None:
    save(Checkpoint("PhotoNet", {"dropout": 2}, {}, training={"recipe": "photos"}), tmp_path / "photos.pt")
    with pytest.raises(CheckpointError, match=r"^photos\.pt has arguments that PhotoNet does not accept\.$"):
        load(tmp_path / "photos.pt")
