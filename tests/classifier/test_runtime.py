import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classifier import graph
from classifier.checkpoint import build, load
from classifier.classifier import Classifier
from classifier.networks import SIDE, ConvNet, Logits, Net, Pixels
from classifier.pixels import SHAPE
from classifier.runtime import BATCHES, Precision, choose_runtime, on_openvino, on_pytorch
from training import data
from training.step import cpu_has_bfloat16

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
def test_openvino_computes_the_same_logits_as_pytorch(network: nn.Module, threads: int) -> None:
    torch.set_num_threads(threads)
    run = on_openvino(scrambled(network), "f32")
    torch.set_num_threads(1)
    for count in (0, 1, 2, 33):
        pixels = random_pixels(count)
        np.testing.assert_allclose(run(pixels), by_pytorch(pixels, network), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_logits_do_not_depend_on_the_batch(precision: Precision) -> None:
    run = choose_runtime(build(load(SHIPPED)), CPU, precision).run
    pixels = random_pixels(40)
    together = run(pixels)
    for size in (1, 3, BATCHES[0], 11):
        assert np.array_equal(np.concatenate([run(pixels[at : at + size]) for at in range(0, 40, size)]), together)


def test_several_threads_get_their_own_logits() -> None:
    run = choose_runtime(build(load(SHIPPED)), CPU).run
    pixels = random_pixels(64)
    expected = run(pixels)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: run(pixels[number : number + 1])[0], list(range(64)) * 20))
    assert np.array_equal(found, np.tile(expected, (20, 1)))


def test_read_only_and_strided_pixels_are_taken() -> None:
    run = choose_runtime(Net().eval(), CPU).run
    pixels = random_pixels(6)
    expected = run(pixels)
    assert np.array_equal(run(pixels[::2]), expected[::2])
    pixels.flags.writeable = False
    assert np.array_equal(run(pixels), expected)


def test_saturated_sigmoids_tie_as_they_do_in_pytorch() -> None:
    torch.manual_seed(0)
    network = Net().eval()
    network.ff2.weight.data *= 1_000
    pixels = random_pixels(2_000)
    runtime = choose_runtime(network, CPU)
    ours, theirs = runtime.run(pixels), by_pytorch(pixels, network)
    second, first = np.sort(theirs)[:, -2:].T
    assert runtime.precision == "float32"
    assert (first == second).mean() > 0.2
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


class Network(nn.Module):
    """A network that has no translation: the first ten pixels."""

    shape = SHAPE

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().flatten(1)[:, :10]


def network_with(layer: nn.Module) -> nn.Module:
    network = ConvNet()
    network.features.append(layer)
    return network.eval()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network(), "there is no translation of Network"),
        (network_with(nn.GELU()), "there is no translation of the layer GELU"),
    ],
    ids=["network", "layer"],
)
def test_what_openvino_cannot_run_is_run_by_pytorch_and_logged(
    network: nn.Module, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, precision, run = choose_runtime(network, CPU)
    assert (name, precision) == ("pytorch", "float32")
    assert np.array_equal(run(random_pixels(2)), by_pytorch(random_pixels(2), network))
    [record] = caplog.records
    assert (record.name, record.levelname) == ("classifier.runtime", "WARNING")
    assert reason in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_wrong_translation_is_found_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(graph, "PIXEL_STD", 9.0)
    assert choose_runtime(scrambled(ConvNet()), CPU).name == "pytorch"
    assert "OpenVINO and PyTorch compute different logits." in caplog.text


def test_without_openvino_pytorch_predicts(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fast = Classifier.load(tiny_checkpoint, "cpu", precision="float32")
    assert (fast.runtime, fast.precision) == ("openvino", "float32")
    pixels = random_pixels(50)
    found = fast.logits(pixels)
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "classifier.graph")
    slow = Classifier.load(tiny_checkpoint, "cpu")
    assert (slow.runtime, slow.precision) == ("pytorch", "float32")
    assert "openvino" in caplog.text
    np.testing.assert_allclose(found, slow.logits(pixels), atol=1e-4)
    assert not np.array_equal(found, slow.logits(pixels))  # the last bits differ


def test_openvino_sends_nothing_and_starts_no_thread(tmp_path: Path) -> None:
    program = (
        "import sys, threading; from classifier.classifier import Classifier; "
        f"runtime = Classifier.load({str(SHIPPED)!r}, 'cpu').runtime; "
        "print(runtime, threading.active_count(), *(name for name in sys.modules if 'telemetry' in name))"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["openvino", "1"]
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_used_where_the_processor_multiplies_it() -> None:
    precision = "bfloat16" if cpu_has_bfloat16() else "float32"
    assert choose_runtime(scrambled(ConvNet()), CPU).precision == precision
    assert choose_runtime(scrambled(ConvNet()), CPU, "float32").precision == "float32"
    assert choose_runtime(Net().eval(), CPU).precision == "float32"


@pytest.mark.data
def test_the_precision_hardly_changes_the_classes_of_the_test_images() -> None:
    test = data.load_test()
    network, pixels, labels = build(load(SHIPPED)), test.array(), test.labels.numpy()
    expected = np.concatenate([by_pytorch(batch.array(), network) for batch in test.batches(1_000)])
    exact = Classifier.load(SHIPPED, "cpu", precision="float32").logits(pixels)
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(exact.argmax(axis=1), expected.argmax(axis=1))
    served = Classifier.load(SHIPPED, "cpu").logits(pixels).argmax(axis=1)
    right, accuracy = served == labels, (expected.argmax(axis=1) == labels).mean()
    assert abs(right.mean() - accuracy) <= 0.0005 + 1e-9
    assert (served != expected.argmax(axis=1)).sum() <= 40
