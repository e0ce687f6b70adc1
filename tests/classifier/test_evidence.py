"""Evidence: occlusion against a direct loop, class activation maps against the logits."""

import numpy as np
import pytest
import torch

from classifier import evidence
from classifier.evidence import MAX_MULTIPLY_ADDS, SQUARE, class_activation_map, occluded, occlusion
from classifier.networks import ConvNet, Logits, Net, PhotoNet, Pixels
from classifier.pixels import CLASSES, SIDE
from classifier.runtime import on_pytorch
from tests.classifier.test_graph import random_photos

IMAGE: Pixels = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE), dtype=np.uint8)


def logits_of(network: torch.nn.Module, image: Pixels) -> Logits:
    logits: Logits = on_pytorch(network, torch.device("cpu"))(image[None])[0]
    return logits


@pytest.mark.parametrize("network", [Net(), Net(sigmoid=False), ConvNet((4, 6))], ids=["sigmoid", "Net", "ConvNet"])
@pytest.mark.parametrize(("multiply_adds", "step"), [(10_000, 2), (20_000_000, 4), (100_000_000, 6)])
def test_occlusion_is_what_a_loop_computes(network: torch.nn.Module, multiply_adds: int, step: int) -> None:
    network = network.eval()
    found = occlusion(on_pytorch(network, torch.device("cpu")), IMAGE, multiply_adds)
    assert found is not None
    places = 24 // step
    expected = np.zeros((len(CLASSES), places, places))
    for row in range(places):
        for column in range(places):
            image = IMAGE.copy()
            top, left = (2 + step * index + step // 2 - SQUARE // 2 for index in (row, column))
            assert 0 <= top <= SIDE - SQUARE
            image[0, top : top + SQUARE, left : left + SQUARE] = 0
            expected[:, row, column] = logits_of(network, IMAGE) - logits_of(network, image)
    np.testing.assert_allclose(found.maps, expected, atol=1e-4)
    assert found.method == "occlusion"
    assert found.box == pytest.approx((2 / 28, 2 / 28, 26 / 28, 26 / 28))


@pytest.mark.parametrize("step", evidence.STEPS)
def test_the_cells_cover_the_image_but_for_its_margin(step: int) -> None:
    images = occluded(np.full((1, SIDE, SIDE), 255, np.uint8), step)
    assert len(images) == (24 // step) ** 2
    hidden = (images == 0).any(axis=(0, 1))
    assert hidden[2:-2, 2:-2].all()
    for image in images:
        assert (image == 0).sum() == SQUARE**2


def test_a_square_on_background_costs_nothing_and_says_nothing() -> None:
    image = np.zeros_like(IMAGE)
    image[0, 10:14, 10:14] = 200
    seen: list[int] = []

    def count(pixels: Pixels) -> Logits:
        seen.append(len(pixels))
        return np.repeat(pixels.mean(axis=(1, 2, 3))[:, None], len(CLASSES), axis=1).astype(np.float32)

    found = occlusion(count, image, 0)
    assert found is not None
    assert sum(seen) == 1 + (found.maps[0] > 0).sum() == 1 + 4**2
    assert found.maps.min() == 0


def test_a_large_network_has_fewer_places_or_none() -> None:
    def blank(pixels: Pixels) -> Logits:
        return np.zeros((len(pixels), len(CLASSES)), np.float32)

    for places in (144, 36, 16):
        found = occlusion(blank, IMAGE, MAX_MULTIPLY_ADDS // places)
        assert found is not None
        assert found.maps[0].size == places
    assert occlusion(blank, IMAGE, MAX_MULTIPLY_ADDS // 16 + 1) is None


@pytest.mark.parametrize("values", [(np.inf, np.inf), (-np.inf, np.inf), (0.0, np.nan), (np.inf, 0.0)])
def test_a_network_that_overflows_gives_finite_evidence(values: tuple[float, float]) -> None:
    def overflowing(pixels: Pixels) -> Logits:
        level = np.where(pixels.reshape(len(pixels), -1).mean(axis=1) < 128, *values)
        return np.repeat(level[:, None], len(CLASSES), axis=1).astype(np.float32)

    found = occlusion(overflowing, IMAGE, 0)
    assert found is not None
    assert np.isfinite(found.maps.max() - found.maps.min())


def test_the_mean_of_a_class_activation_map_and_the_bias_are_the_logit() -> None:
    torch.manual_seed(0)
    network = PhotoNet().eval()
    features: list[torch.Tensor] = []
    network.bn2.register_forward_hook(lambda _, __, output: features.append(output.clone()))
    with torch.inference_mode():
        logits = network(torch.from_numpy(random_photos(1)))[0]
    found = class_activation_map(features[0][0].clamp(0, 6), network.classifier)
    assert found.maps.shape == (10, 5, 5)
    means = found.maps.mean(axis=(1, 2)) + network.classifier.bias.detach().numpy()
    np.testing.assert_allclose(means, logits, atol=1e-4)
