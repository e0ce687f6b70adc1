"""OpenVINO computes the same logits as PyTorch for the photo network."""

import time

import numpy as np
import pytest
import torch

from classifier.graph import to_openvino
from classifier.networks import Logits, Pixels
from classifier.photo_network import PhotoNet
from classifier.pixels import PHOTO_SHAPE, PHOTO_SIDE
from classifier.runtime import on_openvino, on_pytorch

CPU = torch.device("cpu")


def random_photos(count: int, seed: int = 1) -> Pixels:
    """Squares of random colours, which differ more from each other than noise would."""
    squares = np.random.default_rng(seed).integers(256, size=(count, 3, 10, 10), dtype=np.uint8)
    return squares.repeat(PHOTO_SIDE // 10, axis=2).repeat(PHOTO_SIDE // 10, axis=3)


@pytest.fixture(scope="module")
def network() -> PhotoNet:
    """A network in evaluation mode with the batch statistics of three passes in training mode, and random scales."""
    torch.manual_seed(0)
    network = PhotoNet(dropout=0.2)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
            layer.momentum = None  # the mean of the passes, without the 0 and 1 that it started with
    network.train()
    for seed in range(3):
        with torch.no_grad():
            network(torch.from_numpy(random_photos(4, seed)))
    assert isinstance(network.bn2.running_mean, torch.Tensor)
    assert network.bn2.running_mean.abs().max() > 1e-3
    return network.eval()


def by_openvino(network: PhotoNet, photos: Pixels) -> Logits:
    return on_openvino(network, "f32")(photos)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_openvino_computes_the_same_logits_as_pytorch(network: PhotoNet, count: int) -> None:
    photos = random_photos(count)
    found, expected = by_openvino(network, photos), on_pytorch(network, CPU)(photos)
    assert found.shape == (count, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_flat_photos_get_the_same_logits(network: PhotoNet, level: int) -> None:
    photos = np.full((1, *PHOTO_SHAPE), level, np.uint8)
    np.testing.assert_allclose(by_openvino(network, photos), on_pytorch(network, CPU)(photos), rtol=1e-4, atol=1e-4)


def test_different_photos_get_different_logits(network: PhotoNet) -> None:
    assert by_openvino(network, random_photos(8)).std(axis=0).min() > 1e-2


def test_the_model_is_built_quickly(network: PhotoNet) -> None:
    to_openvino(network, 1)
    begin = time.process_time()
    to_openvino(network, 1)
    assert time.process_time() - begin < 0.3  # takes 0.02 s; torch.onnx.export takes 0.4 s
