import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import data
from training.classifier.checkpoint import build, load
from training.classifier.classifier import Classifier
from training.classifier.compiled import CannotCompile, compile_network
from training.classifier.model import SIDE, ConvNet, Net

SHIPPED = Path(__file__).parents[3] / "models/model_scratch.pt"


def random_pixels(count: int) -> Tensor:
    return torch.randint(256, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()


def scrambled(network: nn.Module) -> nn.Module:
    """With batch statistics and scales, some of them negative, that are not those of a new network."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                assert isinstance(tensor, Tensor)
                tensor.normal_(generator=generator)
    return network.eval()


NETWORKS = [Net(), Net(sigmoid=False), ConvNet(), ConvNet((3, 5, 7), dropout=0.5)]


@pytest.mark.parametrize("network", NETWORKS, ids=["tutorial", "tutorial-logits", "ours", "narrow"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_network_computes_what_the_network_does(network: nn.Module, threads: int) -> None:
    run = compile_network(scrambled(network), threads)
    for count in (0, 1, 2, 33):
        pixels = random_pixels(count)
        with torch.inference_mode():
            torch.testing.assert_close(run(pixels), network(pixels), rtol=1e-4, atol=1e-4)


def test_saturated_sigmoids_tie_as_they_do_in_pytorch() -> None:
    network = Net().eval()
    network.ff2.weight.data *= 300
    pixels = random_pixels(2_000)
    with torch.inference_mode():
        ours, theirs = compile_network(network, 1)(pixels), network(pixels)
    assert (theirs.topk(2).values.diff() == 0).float().mean() > 0.2
    assert torch.equal(ours.argmax(dim=1), theirs.argmax(dim=1))


def test_what_is_not_translated_is_left_to_pytorch() -> None:
    with pytest.raises(CannotCompile, match=r"^features\.0\.3 has no translation to ONNX\.$"):
        compile_network(with_layer(3, nn.Mish()), 1)


def test_what_is_translated_wrongly_is_left_to_pytorch() -> None:
    around = nn.Conv2d(1, 32, kernel_size=3, padding=1, padding_mode="circular", bias=False)
    with pytest.raises(CannotCompile, match="disagree"):
        compile_network(with_layer(0, around), 1)


def with_layer(index: int, layer: nn.Module) -> nn.Module:
    network = ConvNet()
    network.features[0].register_module(str(index), layer)
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
    assert plain.run is plain.network
    assert compiled.run is not compiled.network
    torch.testing.assert_close(compiled.probabilities(random_pixels(5)), plain.probabilities(random_pixels(5)))


@pytest.mark.data
def test_all_test_images_get_the_class_that_pytorch_gives_them() -> None:
    _, test = data.load()
    network = build(load(SHIPPED))
    with torch.inference_mode():
        expected = torch.cat([network(batch.pixels) for batch in test.batches(1_000)])
        found = torch.cat([Classifier.load(SHIPPED, "cpu").logits(batch.pixels) for batch in test.batches(1_000)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
