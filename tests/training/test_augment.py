from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from training import augment
from training.data import Images

AUGMENTATIONS = {
    "flip": augment.flip,
    "shift": partial(augment.shift, reach=2),
    "erase": partial(augment.erase, side=8),
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
    flipped = augment.flip(pixels, seeded())
    mirrored = (flipped == pixels.flip(-1)).all(dim=(1, 2, 3))
    kept = (flipped == pixels).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_shift_moves_by_every_distance_up_to_its_reach_and_ground_moves_in() -> None:
    pixels = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 10, 15] = 255
    _, _, rows, columns = augment.shift(pixels, seeded(), reach=2).nonzero(as_tuple=True)
    assert set(zip((rows - 10).tolist(), (columns - 15).tolist(), strict=True)) == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }
    full = augment.shift(torch.full_like(pixels, 255), seeded(), reach=2)
    assert full[:, :, 2:-2, 2:-2].eq(255).all()
    assert not full[:, :, 0].all()


def test_erase_blackens_one_square_at_most_of_its_side() -> None:
    white = torch.full((500, 1, 28, 28), 255, dtype=torch.uint8)
    black = augment.erase(white, seeded(), side=8)[:, 0] == 0
    heights, widths = black.any(dim=2).sum(dim=1), black.any(dim=1).sum(dim=1)
    assert torch.equal(black.sum(dim=(1, 2)), heights * widths)
    assert heights.max() == widths.max() == 8
    assert heights.min() >= 4
    assert black.any(dim=0).all(), "every pixel is erased in some image"
