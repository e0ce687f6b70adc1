"""ONNX Runtime computes the same logits as PyTorch for the photo network, whose ONNX model is built by hand."""

import sys
import time

import numpy as np
import onnx
import pytest
import torch

from classifier.networks import Logits, Pixels
from classifier.photo_network import PhotoNet
from classifier.photo_onnx import photo_model
from classifier.pixels import PHOTO_SHAPE, PHOTO_SIDE
from classifier.runtime import choose_runtime, on_pytorch

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


def by_onnxruntime(network: PhotoNet, photos: Pixels) -> Logits:
    name, run = choose_runtime(network, CPU)
    assert name == "onnxruntime"
    return run(photos)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_onnx_runtime_computes_the_same_logits_as_pytorch(network: PhotoNet, count: int) -> None:
    photos = random_photos(count)
    found, expected = by_onnxruntime(network, photos), on_pytorch(network, CPU)(photos)
    assert found.shape == (count, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_flat_photos_get_the_same_logits(network: PhotoNet, level: int) -> None:
    photos = np.full((1, *PHOTO_SHAPE), level, np.uint8)
    np.testing.assert_allclose(by_onnxruntime(network, photos), on_pytorch(network, CPU)(photos), rtol=1e-4, atol=1e-4)


def test_different_photos_get_different_logits(network: PhotoNet) -> None:
    assert by_onnxruntime(network, random_photos(8)).std(axis=0).min() > 1e-2


def test_the_model_passes_the_checks_of_onnx(network: PhotoNet) -> None:
    content, weights = photo_model(network)
    assert len(content) < 50_000
    model = onnx.load_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == {
        *("Cast", "Sub", "Div", "Conv", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm")
    }


def test_the_model_is_built_quickly(network: PhotoNet) -> None:
    photo_model(network)
    begin = time.process_time()
    photo_model(network)
    assert time.process_time() - begin < 0.4  # takes 0.02 s; torch.onnx.export takes 0.4 s


def test_the_photo_network_runs_on_onnx_runtime(network: PhotoNet, caplog: pytest.LogCaptureFixture) -> None:
    assert choose_runtime(network, CPU)[0] == "onnxruntime"
    assert not caplog.records


def test_without_onnx_runtime_pytorch_runs_it(
    network: PhotoNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    name, run = choose_runtime(network, CPU)
    assert name == "pytorch"
    assert "onnxruntime" in caplog.text
    assert np.array_equal(run(random_photos(1)), on_pytorch(network, CPU)(random_photos(1)))
