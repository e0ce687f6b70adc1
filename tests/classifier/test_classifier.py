import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from classifier.checkpoint import Checkpoint, CheckpointError, load
from classifier.classifier import DEVICES, Classifier, DeviceError, find_device
from classifier.networks import CLASSES, SIDE, ConvNet, Net, PhotoNet
from classifier.pixels import PHOTO_SHAPE, SHAPE
from classifier.uncertainty import Calibration, as_dict
from tests.conftest import overflowing
from training.data import Images

CPU = torch.device("cpu")
FIELDS = [
    *("class", "index", "confidence", "probabilities", "model"),
    *("prediction_set", "familiarity", "familiar"),
]


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier.load(tiny_checkpoint, "cpu")


def with_weights(network: nn.Module, architecture: str, value: float) -> Classifier:
    """A classifier in which every floating-point weight is `value`."""
    weights = {
        name: torch.full_like(tensor, value) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    arguments = {"widths": (3, 4)} if architecture == "ConvNet" else {}
    return Classifier(Checkpoint(architecture, arguments, weights), CPU)


def test_probabilities_sum_to_one(classifier: Classifier, tiny_images: Images) -> None:
    logits = classifier.logits(tiny_images.array())
    assert logits.dtype == np.float32
    assert logits.shape == (len(tiny_images), len(CLASSES))
    for row in logits.tolist():
        probabilities = classifier.probabilities(row)
        assert len(probabilities) == len(CLASSES)
        assert min(probabilities) >= 0
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_a_prediction_has_the_fields_of_the_http_contract(classifier: Classifier, tiny_images: Images) -> None:
    [found] = classifier.predict(tiny_images[:1].array())
    assert list(found) == FIELDS
    assert list(found["probabilities"]) == list(CLASSES)
    assert found["class"] == CLASSES[found["index"]]
    assert found["confidence"] == max(found["probabilities"].values()) == found["probabilities"][found["class"]]
    assert found["model"] == f"tiny-{classifier.checkpoint.sha256[:8]}"


def test_without_thresholds_the_set_and_the_familiarity_are_null(classifier: Classifier, tiny_images: Images) -> None:
    [found] = classifier.predict(tiny_images[:1].array())
    assert [found["prediction_set"], found["familiarity"], found["familiar"]] == [None] * 3


def test_with_thresholds_a_prediction_has_its_sets_and_its_familiarity(
    classifier: Classifier, tiny_images: Images
) -> None:
    pixels = tiny_images[:50].array()
    energies = torch.from_numpy(classifier.logits(pixels)).double().div(2.0).logsumexp(dim=1).tolist()
    middle = statistics.median(energies)
    fitted = as_dict(Calibration(2.0, (0.3, 0.01), energy=middle, energy_scale=0.5))
    predictions = Classifier(replace(classifier.checkpoint, calibration=fitted), CPU).predict(pixels)
    assert sum(found["familiar"] is True for found in predictions) == 25
    for found, energy in zip(predictions, energies, strict=True):
        assert list(found) == FIELDS
        sets, probabilities, score = found["prediction_set"], found["probabilities"], found["familiarity"]
        assert sets is not None
        assert score is not None
        assert list(sets) == ["0.95", "0.99"]
        assert sets["0.95"] == ([name for name in CLASSES if probabilities[name] >= 0.3] or [found["class"]])
        assert sets["0.99"] == [name for name in CLASSES if probabilities[name] >= 0.01]
        assert score == pytest.approx(1 / (1 + math.exp((middle - energy) / 0.5)))
        assert found["familiar"] == (score >= 0.5)


@pytest.mark.parametrize(
    ("shape", "ours", "wanted"),
    [
        (SHAPE, "photos", "images of Fashion-MNIST"),
        (PHOTO_SHAPE, "images of Fashion-MNIST", "photos"),
    ],
)
def test_a_network_for_other_images_is_refused_by_name(shape: tuple[int, ...], ours: str, wanted: str) -> None:
    networks: dict[tuple[int, ...], Classifier] = {
        SHAPE: Classifier(Checkpoint("Net", {}, Net().state_dict()), CPU),
        PHOTO_SHAPE: Classifier(Checkpoint("PhotoNet", {}, PhotoNet().state_dict()), CPU),
    }
    networks.pop(shape).check_shape(shape, "x.pt", "--model")
    [other] = networks.values()
    with pytest.raises(CheckpointError) as caught:
        other.check_shape(shape, "x.pt", "--model")
    assert str(caught.value) == f"x.pt is a network for {ours}; --model needs one for {wanted}."


def test_predict_names_the_classes_that_were_learned(classifier: Classifier, tiny_images: Images) -> None:
    predictions = classifier.predict(tiny_images.array())
    right = sum(found["index"] == label for found, label in zip(predictions, tiny_images.labels.tolist(), strict=True))
    assert right / len(predictions) > 0.95


def test_of_equally_probable_classes_the_first_is_predicted() -> None:
    predictions = with_weights(Net(), "Net", 0.0).predict(np.zeros((2, 1, SIDE, SIDE), np.uint8))
    assert [found["index"] for found in predictions] == [0, 0]
    assert set(predictions[0]["probabilities"].values()) == {0.1}


def test_predict_of_an_empty_batch_is_an_empty_list(classifier: Classifier, tiny_images: Images) -> None:
    assert classifier.predict(tiny_images[:0].array()) == []


def test_a_picture_alone_gets_the_same_prediction_bit_for_bit(tiny_checkpoint: Path, tiny_images: Images) -> None:
    first, again = Classifier.load(tiny_checkpoint, "cpu"), Classifier.load(tiny_checkpoint, "cpu")
    for pixels in tiny_images[:20].array():
        assert first.predict(pixels[None]) == first.predict(pixels[None]) == again.predict(pixels[None])


def test_a_batch_gets_the_logits_of_its_pictures_alone(classifier: Classifier, tiny_images: Images) -> None:
    pixels = tiny_images[:50].array()
    alone = np.concatenate([classifier.logits(picture[None]) for picture in pixels])
    np.testing.assert_allclose(classifier.logits(pixels), alone, atol=1e-5)


def test_temperature_scaling_changes_the_confidence_and_not_the_class(
    classifier: Classifier, tiny_images: Images
) -> None:
    logits = torch.from_numpy(classifier.logits(tiny_images[:100].array())).double()
    hotter = Classifier(replace(classifier.checkpoint, calibration={"temperature": 4.0}), CPU)
    before, after = (torch.tensor(list(map(c.probabilities, logits.tolist()))).double() for c in (classifier, hotter))
    assert torch.equal(before.argmax(dim=1), after.argmax(dim=1))
    assert (after.max(dim=1).values < before.max(dim=1).values).all()
    torch.testing.assert_close(after, (logits / 4).softmax(dim=1))


def test_the_sigmoid_of_the_tutorial_limits_the_probabilities(tutorial_state_dict: Path, tiny_images: Images) -> None:
    predictions = Classifier.load(tutorial_state_dict, "cpu").predict(tiny_images.array())
    assert max(found["confidence"] for found in predictions) <= math.e / (math.e + 9)


def test_bfloat16_weights_are_computed_with_in_float32(tiny_checkpoint: Path, tiny_images: Images) -> None:
    checkpoint = load(tiny_checkpoint)
    weights = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.state_dict.items()
    }
    classifier = Classifier(replace(checkpoint, state_dict=weights), CPU)
    assert {parameter.dtype for parameter in classifier.network.parameters()} == {torch.float32}
    classifier.smoke_test("x.pt")


def test_denormal_weights_become_zero() -> None:
    weights = Net().state_dict()
    weights["ff2.bias"].copy_(torch.tensor([1e-40, -1e-45, 0, 1e-37, -1e-37, 1, -1, 1e-10, 2, 3]))
    bias = Classifier(Checkpoint("Net", {}, weights), CPU).network.state_dict()["ff2.bias"]
    assert bias.tolist() == [0, 0, 0, *weights["ff2.bias"][3:].tolist()]
    assert weights["ff2.bias"][0] > 0  # the checkpoint is unchanged


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "tutorial_state_dict"])
def test_a_good_network_passes_the_smoke_test(checkpoint: str, request: pytest.FixtureRequest) -> None:
    Classifier.load(request.getfixturevalue(checkpoint), "cpu").smoke_test("x.pt")


@pytest.mark.parametrize("value", [1e38, 3e38, -1e38])
def test_the_smoke_test_refuses_weights_that_overflow(value: float) -> None:
    classifier = with_weights(ConvNet((3, 4)), "ConvNet", value)
    with pytest.raises(CheckpointError, match=r"x\.pt has weights so large that they overflow on cpu"):
        classifier.smoke_test("x.pt")


def test_auto_is_the_fastest_device_that_exists() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert find_device("auto") == find_device() == torch.device(best)
    assert find_device("cpu") == CPU


def test_a_missing_device_is_an_error_that_names_it() -> None:
    for name, is_available in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not is_available:
            with pytest.raises(DeviceError, match=f"no {name} device"):
                find_device(name)


def test_an_unknown_device_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=rf"'tpu'.*{', '.join(DEVICES)}"):
        find_device("tpu")


def test_predict_refuses_a_picture_on_which_weights_overflow() -> None:
    classifier = Classifier(overflowing(), CPU)
    classifier.smoke_test("x.pt")
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, SIDE, SIDE), dtype=np.uint8)
    with pytest.raises(CheckpointError, match="overflow on this picture"):
        classifier.predict(noise)
