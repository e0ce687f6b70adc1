from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from training import augmentation
from training.data import Images

AUGMENTATIONS = {
    "flip": augmentation.flip,
    "shift": partial(augmentation.shift, reach=2),
    "erase": partial(augmentation.erase, share=1.0),
}
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("change", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_keeps_shape_and_type_and_its_input(change: Augmentation, tiny_images: Images) -> None:
    before = tiny_images.pixels.clone()
    changed = change(tiny_images.pixels, seeded())
    assert (changed.shape, changed.dtype) == (before.shape, torch.uint8)
    assert not torch.equal(changed, before)
    assert torch.equal(tiny_images.pixels, before)


@pytest.mark.parametrize("change", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_is_drawn_by_its_generator_alone(change: Augmentation, tiny_images: Images) -> None:
    first, again, other = (change(tiny_images.pixels, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("change", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_an_augmentation_takes_a_batch_of_one(change: Augmentation, tiny_images: Images) -> None:
    assert change(tiny_images.pixels[:1], seeded()).shape == (1, 1, 28, 28)


def test_flip_mirrors_about_half_and_leaves_the_others(tiny_images: Images) -> None:
    pixels = tiny_images.pixels
    flipped = augmentation.flip(pixels, seeded())
    mirrored = (flipped == pixels.flip(-1)).all(dim=(1, 2, 3))
    kept = (flipped == pixels).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_shift_moves_by_every_distance_up_to_its_reach_and_ground_moves_in() -> None:
    pixels = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 10, 15] = 255
    _, _, rows, columns = augmentation.shift(pixels, seeded(), reach=2).nonzero(as_tuple=True)
    assert set(zip((rows - 10).tolist(), (columns - 15).tolist(), strict=True)) == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }
    full = augmentation.shift(torch.full_like(pixels, 255), seeded(), reach=2)
    assert full[:, :, 2:-2, 2:-2].eq(255).all()
    assert not full[:, :, 0].all()


def test_erase_fills_a_rectangle_of_a_share_of_the_images_with_noise() -> None:
    black = torch.zeros(2_000, 1, 28, 28, dtype=torch.uint8)
    erased = augmentation.erase(black, seeded(), share=0.25)[:, 0]
    changed = (erased > 0).flatten(1).any(dim=1)
    assert 0.2 < changed.float().mean() < 0.3
    touched = erased[changed] > 0  # all but 1 of 256 pixels of noise
    heights, widths = touched.any(dim=2).sum(dim=1), touched.any(dim=1).sum(dim=1)
    areas = heights * widths
    assert (touched.sum(dim=(1, 2)) > 0.8 * areas).all()
    assert areas.min() < 0.04 * 784
    assert 0.35 * 784 < areas.max() < 0.45 * 784
    assert (heights > widths).float().mean() == pytest.approx(0.5, abs=0.1)
    assert (heights / widths).max() > 2
    assert touched.any(dim=(0, 1)).all()
    assert touched.any(dim=(0, 2)).all()
    assert 100 < erased[changed][touched].float().mean() < 156
