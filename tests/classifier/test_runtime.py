import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier.checkpoint import build, load
from classifier.classifier import Classifier
from classifier.networks import SIDE, ConvNet, Logits, Net, Pixels
from classifier.pixels import SHAPE
from classifier.runtime import choose_runtime, on_onnxruntime, on_pytorch
from training import data

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[2] / "models/model_scratch.pt"


def random_pixels(count: int) -> Pixels:
    return np.random.default_rng(1).integers(256, size=(count, 1, SIDE, SIDE), dtype=np.uint8)


def by_pytorch(pixels: Pixels, network: nn.Module) -> Logits:
    return on_pytorch(network, CPU)(pixels)


def scrambled(network: nn.Module) -> nn.Module:
    """The network with random batch statistics and scales, some of them negative, in evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                assert isinstance(tensor, Tensor)
                tensor.normal_(generator=generator)
    return network.eval()


NETWORKS = [
    Net(),
    Net(sigmoid=False),
    ConvNet(),
    ConvNet((5, 7), (2, 1), dropout=0.5),
    ConvNet(tta_views=2),
    ConvNet((5, 7), tta_views=6),
    ConvNet((5, 7, 9), (1, 0, 1), side=28),
]


@pytest.mark.parametrize(
    "network",
    NETWORKS,
    ids=["tutorial", "tutorial-logits", "default", "narrow", "two views", "six views", "three stages"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_runtime_computes_the_same_logits_as_pytorch(network: nn.Module, threads: int) -> None:
    torch.set_num_threads(threads)
    run = on_onnxruntime(scrambled(network))
    torch.set_num_threads(1)
    for count in (0, 1, 2, 33):
        pixels = random_pixels(count)
        np.testing.assert_allclose(run(pixels), by_pytorch(pixels, network), rtol=1e-4, atol=1e-4)


def test_saturated_sigmoids_tie_as_they_do_in_pytorch() -> None:
    torch.manual_seed(0)
    network = Net().eval()
    network.ff2.weight.data *= 1_000
    pixels = random_pixels(2_000)
    ours, theirs = on_onnxruntime(network)(pixels), by_pytorch(pixels, network)
    second, first = np.sort(theirs)[:, -2:].T
    assert (first == second).mean() > 0.2
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


class Network(nn.Module):
    """The first ten pixels, changed by `change`."""

    shape = SHAPE

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, pixels: Tensor) -> Tensor:
        return self.change(pixels.float().flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (torch.special.bessel_j0, "Exporting the operator 'aten::special_bessel_j0'"),
        (lambda x: x * len(x), "ONNX Runtime and PyTorch compute different logits."),
        (lambda x: x if x.mean() > 0 else -x, "ONNX Runtime and PyTorch compute different logits."),
        (lambda x: x + torch.ones(len(x), 10), "ONNX Runtime and PyTorch compute different logits."),
    ],
    ids=["unknown operator", "size of the batch", "branch on the pixels", "fixed shape"],
)
def test_what_onnx_runtime_cannot_run_is_run_by_pytorch_and_logged(
    change: Callable[[Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network(change).eval()
    name, run = choose_runtime(network, CPU)
    assert name == "pytorch"
    assert np.array_equal(run(random_pixels(2)), by_pytorch(random_pixels(2), network))
    [record] = caplog.records
    assert (record.name, record.levelname) == ("classifier.runtime", "WARNING")
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_pytorch_predicts(
    package: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast = Classifier.load(tiny_checkpoint, "cpu")
    assert fast.runtime == "onnxruntime"
    assert not caplog.records
    monkeypatch.setitem(sys.modules, package, None)
    slow = Classifier.load(tiny_checkpoint, "cpu")
    assert slow.runtime == "pytorch"
    assert package in caplog.text
    pixels = random_pixels(50)
    np.testing.assert_allclose(fast.logits(pixels), slow.logits(pixels), atol=1e-4)
    assert not np.array_equal(fast.logits(pixels), slow.logits(pixels))  # the last bits differ


@pytest.mark.data
def test_both_runtimes_predict_the_same_class_for_all_test_images() -> None:
    _, test = data.load()
    network, classifier = build(load(SHIPPED)), Classifier.load(SHIPPED, "cpu")
    for batch in test.batches(1_000):
        found, expected = classifier.logits(batch.array()), by_pytorch(batch.array(), network)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
