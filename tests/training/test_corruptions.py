from pathlib import Path

import pytest
import torch

from classifier.classifier import Classifier
from classifier.pixels import PHOTO_SHAPE, SHAPE
from training.corruptions import CORRUPTIONS, evaluate_corruptions
from training.data import Images


@pytest.mark.parametrize("shape", [SHAPE, PHOTO_SHAPE])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_pixels_and_keeps_their_dtype_and_shape(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pixels = torch.nn.functional.interpolate(torch.rand(2, shape[0], 10, 10) * 255, shape[1:], mode="bilinear").byte()
    corrupted = CORRUPTIONS[name](pixels)
    assert (corrupted.dtype, corrupted.shape) == (torch.uint8, pixels.shape)
    assert (corrupted != pixels).double().mean() > 0.01


def test_the_geometry_of_the_corruptions() -> None:
    pixels = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    pixels[..., 13:15, 13:15] = 200
    assert CORRUPTIONS["half the brightness"](pixels).max() == 100
    assert CORRUPTIONS["twice the brightness"](pixels).max() == 255
    rows = CORRUPTIONS["shift by a tenth"](pixels).double().sum(dim=-1).squeeze()
    assert (rows * torch.arange(28)).sum() / rows.sum() == pytest.approx(13.5 + 2.8, abs=0.1)


def test_each_corruption_is_evaluated_the_same_each_time(tiny_checkpoint: Path, tiny_images: Images) -> None:
    classifier = Classifier.load(tiny_checkpoint, "cpu")
    first, second = (evaluate_corruptions(classifier, tiny_images[:50]) for _ in range(2))
    assert list(first) == ["none", *CORRUPTIONS]
    assert all(first[name].loss == second[name].loss for name in first)
    assert first["none"].loss != first["half the resolution"].loss
