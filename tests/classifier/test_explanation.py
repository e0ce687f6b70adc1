"""The explanation of a prediction, for every architecture."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from classifier.checkpoint import Checkpoint
from classifier.classifier import Classifier
from classifier.explanation import MAX_CELLS, MAX_CHANNELS, Explainer, distinct_channels
from classifier.layers import first_layer
from classifier.networks import ConvNet, Net, PhotoNet, Pixels, Pretrained, shape_of
from classifier.preprocessing import prepare
from classifier.weights import costs_of

ROOT = Path(__file__).parents[2]
PHOTO: Pixels = np.random.default_rng(1).integers(0, 256, (3, 160, 160), dtype=np.uint8)
SHOE = prepare((ROOT / "shoe.png").read_bytes()).pixels
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    "Net": ("Net", {}),
    "Net without sigmoid": ("Net", {"sigmoid": False, "relu": True}),
    "ConvNet": ("ConvNet", {}),
    "one convolution": ("ConvNet", {"widths": (3,), "blocks": (0,)}),
    "one stage at 28": ("ConvNet", {"widths": (9,), "blocks": (0,), "side": 28}),
    "four stages": ("ConvNet", {"widths": (3, 4, 5, 6), "blocks": (1, 0, 2, 1), "side": 14}),
    "large maps": ("ConvNet", {"widths": (16, 16), "blocks": (3, 0), "side": 28}),
    "2 views": ("ConvNet", {"widths": (3, 4), "blocks": (0, 1), "tta_views": 2}),
    "6 views": ("ConvNet", {"widths": (3, 200), "blocks": (0, 1), "tta_views": 6, "dropout": 0.5}),
    "1×1 at the end": ("ConvNet", {"widths": (3, 4, 5, 6), "blocks": (0, 0, 0, 0)}),
    "PhotoNet": ("PhotoNet", {"dropout": 0.2}),
    "a network of timm": ("Pretrained", {"backbone": "test_resnet", "side": 56}),
    "one without convolutions": ("Pretrained", {"backbone": "test_vit", "side": 160}),
}
BUILDERS: dict[str, type[nn.Module]] = {"Net": Net, "ConvNet": ConvNet, "PhotoNet": PhotoNet, "Pretrained": Pretrained}


def explainer_of(checkpoint: Checkpoint) -> tuple[Classifier, Explainer]:
    classifier = Classifier(checkpoint, torch.device("cpu"), "float32")
    return classifier, Explainer(classifier, costs_of(classifier.network)[0])


def random_checkpoint(architecture: str, arguments: dict[str, object]) -> Checkpoint:
    torch.manual_seed(0)
    weights = BUILDERS[architecture](**arguments).state_dict()
    return Checkpoint(architecture, arguments, weights, training={"recipe": "random"}, sha256="0" * 64)


def shipped(name: str) -> tuple[Classifier, Explainer]:
    return explainer_of(Classifier.load(ROOT / "models" / name, "cpu").checkpoint)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_explained(name: str) -> None:
    classifier, explainer = explainer_of(random_checkpoint(*NETWORKS[name]))
    pixels = PHOTO if classifier.shape[0] == 3 else SHOE
    found = explainer.explain(pixels)
    assert found.prediction == classifier.predict(pixels[None])[0]
    assert found.logits == classifier.logits(pixels[None])[0].tolist()
    assert len(found.stages) == (1 if name == "one without convolutions" else 3)
    for stage in found.stages:
        channels, rows, columns = stage.shape
        assert len(stage.channels) == len(stage.maps) <= min(channels, MAX_CHANNELS)
        assert stage.channels == sorted(set(stage.channels))
        assert stage.maps.size <= MAX_CELLS
        assert stage.maps.shape[1:] in ((rows, columns), (rows // 2, columns // 2), (rows // 4, columns // 4))
        assert np.isfinite(stage.maps).all()
    assert found.evidence is not None
    assert np.isfinite(found.evidence.maps).all()
    again = explainer.explain(pixels)
    assert again.prediction == found.prediction
    assert all((one.maps == other.maps).all() for one, other in zip(again.stages, found.stages, strict=True))


def first_maps(classifier: Classifier, pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The sum that `first_layer` describes, for every cell."""
    layer = first_layer(classifier.network)
    assert layer.weights is not None
    assert layer.bias is not None
    assert layer.stride is not None
    x = (torch.from_numpy(pixels[None]).float() - layer.mean) / layer.std
    if layer.padding:
        x = functional.pad(x, (layer.padding,) * 4)
    elif layer.stride == 2:
        x = functional.pad(x, (0, 1, 0, 1))  # what the photo network sees right of and below the photo
    maps: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = functional.conv2d(
        x, layer.weights, layer.bias, layer.stride
    )[0].numpy()
    return maps


@pytest.mark.parametrize("name", ["Net", "Net without sigmoid", "ConvNet", "large maps", "6 views"])
def test_the_first_maps_are_the_sums_of_the_first_layer(name: str) -> None:
    classifier, explainer = explainer_of(random_checkpoint(*NETWORKS[name]))
    stage = explainer.explain(SHOE).stages[0]
    np.testing.assert_allclose(stage.maps, first_maps(classifier, SHOE)[stage.channels], atol=1e-4)


def test_the_first_maps_of_the_shipped_networks_are_the_sums_of_their_first_layer() -> None:
    classifier, explainer = shipped("model_scratch.pt")
    stage = explainer.explain(SHOE).stages[0]
    np.testing.assert_allclose(stage.maps, first_maps(classifier, SHOE)[stage.channels], atol=1e-4)
    classifier, explainer = shipped("photos.pt")
    stage = explainer.explain(PHOTO).stages[0]
    maps = first_maps(classifier, PHOTO)[stage.channels]
    means = maps.reshape(len(maps), 40, 2, 40, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(stage.maps, means, atol=1e-3)
    assert stage.field == (5, 4, 0)


def head(classifier: Classifier) -> nn.Linear:
    return [module for module in classifier.network.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("name", ["Net without sigmoid", "ConvNet", "one stage at 28"])
def test_the_last_layer_makes_the_logits_from_the_features(name: str) -> None:
    classifier, explainer = explainer_of(random_checkpoint(*NETWORKS[name]))
    found = explainer.explain(SHOE)
    assert found.features is not None
    logits = head(classifier)(torch.tensor(found.features)).tolist()
    assert logits == pytest.approx(found.logits, abs=1e-4)


def test_many_features_are_left_out() -> None:
    assert explainer_of(random_checkpoint(*NETWORKS["6 views"]))[1].explain(SHOE).features is None
    assert explainer_of(random_checkpoint(*NETWORKS["PhotoNet"]))[1].explain(PHOTO).features is None


def test_the_last_maps_of_a_convnet_are_those_whose_maxima_are_the_features() -> None:
    _, explainer = shipped("model_scratch.pt")
    found = explainer.explain(SHOE)
    assert found.features is not None
    last = found.stages[-1]
    maxima = last.maps.max(axis=(1, 2))
    np.testing.assert_allclose(maxima, np.array(found.features)[last.channels], atol=1e-5)


def test_the_photo_network_has_class_activation_maps() -> None:
    classifier, explainer = shipped("photos.pt")
    found = explainer.explain(PHOTO)
    assert found.evidence is not None
    means = found.evidence.maps.mean(axis=(1, 2)) + head(classifier).bias.detach().numpy()
    np.testing.assert_allclose(means, found.logits, atol=1e-2)
    assert found.stages[-1].maps.min() >= 0
    assert found.stages[-1].maps.max() <= 6


def test_a_network_whose_maps_overflow_gives_finite_values() -> None:
    weights = {name: torch.full_like(tensor, 1e30) for name, tensor in Net().state_dict().items()}
    _, explainer = explainer_of(Checkpoint("Net", {}, weights, training={"recipe": "overflowing"}))
    found = explainer.explain(SHOE)
    assert found.logits == [1.0] * 10  # the sigmoid of infinity
    for stage in found.stages:
        assert stage.maps.max() > 1e30
        assert np.isfinite(stage.maps.max() - stage.maps.min())


def test_predictions_in_another_thread_do_not_disturb_an_explanation() -> None:
    classifier, explainer = explainer_of(random_checkpoint(*NETWORKS["ConvNet"]))
    expected = explainer.explain(SHOE)
    stop = threading.Event()

    def predict() -> None:
        noise = torch.randint(0, 256, (4, *shape_of(classifier.network)), dtype=torch.uint8)
        while not stop.is_set():
            with torch.inference_mode():
                classifier.network(noise)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(10):
            found = explainer.explain(SHOE)
            assert (found.stages[1].maps == expected.stages[1].maps).all()
    finally:
        stop.set()
        thread.join()


def test_the_shown_channels_vary_most_and_are_not_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    maps = torch.stack([0.1 * base[0], base[1], -2 * base[1] + 3, torch.ones(5, 5), base[2], torch.zeros(5, 5)])
    assert distinct_channels(maps, 1) == [2]
    assert distinct_channels(maps, 3) == [0, 2, 4]
    assert distinct_channels(maps, 8) == [0, 2, 3, 4, 5]
