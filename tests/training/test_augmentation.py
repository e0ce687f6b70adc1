from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from training import augmentation
from training.data import Images

AUGMENTATIONS = {
    "flip": augmentation.flip,
    "shift": partial(augmentation.shift, max_pixels=2),
    "erase": partial(augmentation.erase, probability=1.0),
}
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_preserves_shape_and_dtype_and_its_input(augment: Augmentation, tiny_images: Images) -> None:
    before = tiny_images.pixels.clone()
    augmented = augment(tiny_images.pixels, seeded())
    assert (augmented.shape, augmented.dtype) == (before.shape, torch.uint8)
    assert not torch.equal(augmented, before)
    assert torch.equal(tiny_images.pixels, before)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_depends_only_on_its_generator(augment: Augmentation, tiny_images: Images) -> None:
    first, again, other = (augment(tiny_images.pixels, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_accepts_a_batch_of_one(augment: Augmentation, tiny_images: Images) -> None:
    assert augment(tiny_images.pixels[:1], seeded()).shape == (1, 1, 28, 28)


def test_flip_mirrors_about_half_of_the_images(tiny_images: Images) -> None:
    pixels = tiny_images.pixels
    flipped = augmentation.flip(pixels, seeded())
    mirrored = (flipped == pixels.flip(-1)).all(dim=(1, 2, 3))
    unchanged = (flipped == pixels).all(dim=(1, 2, 3))
    assert (mirrored ^ unchanged).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_shift_moves_by_every_distance_up_to_the_largest_and_fills_with_background() -> None:
    pixels = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 10, 15] = 255
    _, _, rows, columns = augmentation.shift(pixels, seeded(), max_pixels=2).nonzero(as_tuple=True)
    assert set(zip((rows - 10).tolist(), (columns - 15).tolist(), strict=True)) == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }
    white = augmentation.shift(torch.full_like(pixels, 255), seeded(), max_pixels=2)
    assert white[:, :, 2:-2, 2:-2].eq(255).all()
    assert not white[:, :, 0].all()


def test_erase_fills_a_rectangle_with_noise_in_a_fraction_of_the_images() -> None:
    black = torch.zeros(2_000, 1, 28, 28, dtype=torch.uint8)
    augmented = augmentation.erase(black, seeded(), probability=0.25)[:, 0]
    changed = (augmented > 0).flatten(1).any(dim=1)
    assert 0.2 < changed.float().mean() < 0.3
    erased = augmented[changed] > 0  # all but 1 in 256 pixels of noise
    heights, widths = erased.any(dim=2).sum(dim=1), erased.any(dim=1).sum(dim=1)
    areas = heights * widths
    assert (erased.sum(dim=(1, 2)) > 0.8 * areas).all()
    assert areas.min() < 0.04 * 784
    assert 0.35 * 784 < areas.max() < 0.45 * 784
    assert (heights > widths).float().mean() == pytest.approx(0.5, abs=0.1)
    assert (heights / widths).max() > 2
    assert erased.any(dim=(0, 1)).all()
    assert erased.any(dim=(0, 2)).all()
    assert 100 < augmented[changed][erased].float().mean() < 156
