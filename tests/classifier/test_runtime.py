import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier.checkpoint import build, load
from classifier.classifier import Classifier
from classifier.networks import SIDE, ConvNet, Logits, Net, Pixels
from classifier.runtime import CannotCompile, compile_network
from training import data

SHIPPED = Path(__file__).parents[2] / "models/model_scratch.pt"


def random_pixels(count: int) -> Pixels:
    return np.random.default_rng(1).integers(256, size=(count, 1, SIDE, SIDE), dtype=np.uint8)


def by_pytorch(network: nn.Module, pixels: Pixels) -> Logits:
    with torch.inference_mode():
        logits: Logits = network(torch.from_numpy(pixels)).numpy()
    return logits


def scrambled(network: nn.Module) -> nn.Module:
    """With batch statistics and scales, some of them negative, that are not those of a new network."""
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
    "network", NETWORKS, ids=["tutorial", "tutorial-logits", "ours", "narrow", "two views", "six views", "fine"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_network_computes_what_the_network_does(network: nn.Module, threads: int) -> None:
    run = compile_network(scrambled(network), threads)
    for count in (0, 1, 2, 33):
        pixels = random_pixels(count)
        np.testing.assert_allclose(run(pixels), by_pytorch(network, pixels), rtol=1e-4, atol=1e-4)


def test_saturated_sigmoids_tie_as_they_do_in_pytorch() -> None:
    torch.manual_seed(0)
    network = Net().eval()
    network.ff2.weight.data *= 1_000
    pixels = random_pixels(2_000)
    ours, theirs = compile_network(network, 1)(pixels), by_pytorch(network, pixels)
    second, first = np.sort(theirs)[:, -2:].T
    assert (first == second).mean() > 0.2
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


def test_what_is_not_translated_is_left_to_pytorch() -> None:
    with pytest.raises(CannotCompile, match=r"^features\.2\.3 has no translation to ONNX\.$"):
        compile_network(with_layer(3, nn.Mish()), 1)


def test_what_is_translated_wrongly_is_left_to_pytorch() -> None:
    around = nn.Conv2d(18, 32, kernel_size=3, padding=1, padding_mode="circular", bias=False)
    with pytest.raises(CannotCompile, match="disagree"):
        compile_network(with_layer(0, around), 1)


def with_layer(index: int, layer: nn.Module) -> nn.Module:
    network = ConvNet()
    network.features[2].register_module(str(index), layer)
    return network.eval()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_pytorch_answers(
    package: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = Classifier.load(tiny_checkpoint, "cpu")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CannotCompile, match=f"^{package} is not installed"):
        compile_network(ConvNet().eval(), 1)
    plain = Classifier.load(tiny_checkpoint, "cpu")
    pixels = random_pixels(50)
    np.testing.assert_allclose(compiled.logits(pixels), plain.logits(pixels), atol=1e-4)
    assert not np.array_equal(compiled.logits(pixels), plain.logits(pixels))  # in the last bits


@pytest.mark.data
def test_all_test_images_get_the_class_that_pytorch_gives_them() -> None:
    _, test = data.load()
    network, classifier = build(load(SHIPPED)), Classifier.load(SHIPPED, "cpu")
    for batch in test.batches(1_000):
        found, expected = classifier.logits(batch.array()), by_pytorch(network, batch.array())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
