"""Data augmentation on the device, one batch at a time.

Each function draws from `generator` and leaves its input unchanged. The first three take and return images of
Fashion-MNIST, uint8 [N,1,28,28]; the others are for the photo network.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from classifier.conversion import LUMA
from classifier.pixels import PHOTO_SIDE


def flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right with a probability of 0.5."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, generator=generator, device=generator.device).to(pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(-1), pixels)


def shift(pixels: Tensor, generator: torch.Generator, max_pixels: int) -> Tensor:
    """Moves each image by up to `max_pixels` along both axes and fills the border with background (0)."""
    n, _, height, width = pixels.shape
    padded = functional.pad(pixels, (max_pixels,) * 4)
    windows = padded[:, 0].unfold(1, height, 1).unfold(2, width, 1)  # a view: (N, 2m+1, 2m+1, 28, 28)
    down, right = torch.randint(2 * max_pixels + 1, (2, n), generator=generator, device=generator.device).to(
        pixels.device
    )
    return windows[torch.arange(n, device=pixels.device), down, right].unsqueeze(1)


def erase(pixels: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Random erasing (Zhong et al. 2020): fills a rectangle of an image with noise, with the given probability.

    The rectangle covers 2 to 40 % of the image; its aspect ratio is from 0.3 to 1 / 0.3.
    """
    n, _, height, width = pixels.shape
    area, shape, top, left, chance = torch.rand(5, n, 1, 1, 1, generator=generator, device=generator.device).to(
        pixels.device
    )
    area = (0.02 + 0.38 * area) * height * width
    ratio = 0.3 ** (2 * shape - 1)
    rows, columns = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top, left = top * (height - rows), left * (width - columns)
    y = torch.arange(height, device=pixels.device).view(1, 1, -1, 1) + 0.5  # pixel centres
    x = torch.arange(width, device=pixels.device).view(1, 1, 1, -1) + 0.5
    erased = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns) & (chance < probability)
    noise = torch.randint(256, pixels.shape, generator=generator, dtype=torch.uint8, device=generator.device).to(
        pixels.device
    )
    return torch.where(erased, noise, pixels)


def warp(
    images: Tensor,
    generator: torch.Generator,
    scales: tuple[float, float],
    shift: float,
    degrees: float = 20.0,
    stretch: float = 0.15,
    mode: str = "bilinear",
    outside: str = "border",
    side: int = PHOTO_SIDE,
) -> Tensor:
    """Mirrors, turns, scales, stretches and shifts each image at random; float32 [N,C,H,W] -> [N,C,side,side].

    `scales` are the least and the largest size of the image, as a fraction of the result; `shift` is the largest shift
    as a fraction of half the side, `degrees` the largest angle, and `stretch` the logarithm of the largest ratio of
    the two axes. `mode` and `outside` are those of torch's grid_sample.
    """
    n = len(images)
    turn, size, ratio, right, down, mirrored = uniform((6, n), -1, 1, generator, images.device)
    low, high = (math.log(scale) for scale in scales)
    size, ratio = (low + (high - low) * (size + 1) / 2).exp(), (ratio * stretch).exp()
    mirror = torch.where(mirrored < 0, -1.0, 1.0)
    cos, sin = (turn * math.radians(degrees)).cos(), (turn * math.radians(degrees)).sin()
    right, down = right * shift, down * shift
    across, along = mirror / (size * ratio), ratio / size
    inverse = torch.stack(  # from a place in the result to the place in the image, both from -1 to 1
        [
            torch.stack([cos * across, sin * across, -(cos * right + sin * down) * across], dim=1),
            torch.stack([-sin * along, cos * along, (sin * right - cos * down) * along], dim=1),
        ],
        dim=1,
    )  # (N, 2, 3)
    grid = functional.affine_grid(inverse, [n, images.shape[1], side, side], align_corners=False)
    warped: Tensor = functional.grid_sample(images, grid, mode=mode, padding_mode=outside, align_corners=False)
    return warped


def change_colours(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast, saturation and the balance of colours; float32 [N,3,H,W] in 0…255.

    One photo in seven becomes grey.
    """
    n, device = len(photos), photos.device
    saturation, chance, contrast, brightness = uniform((4, n, 1, 1, 1), 0, 1, generator, device)
    balance = uniform((n, 3, 1, 1), -0.12, 0.12, generator, device).exp()
    grey = (photos * torch.tensor(LUMA, device=device).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    saturation = torch.where(chance < 0.15, 0.0, 0.4 + 1.2 * saturation)
    photos = (grey + (photos - grey) * saturation) * balance
    mean = photos.mean(dim=(2, 3), keepdim=True)
    changed: Tensor = (mean + (photos - mean) * (0.7 + 0.6 * contrast)) * (0.7 + 0.6 * brightness)
    return changed.clamp(0, 255)


def coarsen(photos: Tensor, generator: torch.Generator, probability: float = 0.35) -> Tensor:
    """Reduces some photos to 28 to 90 pixels and enlarges them again; float32 [N,3,H,W] in 0…255."""
    chances = uniform((3, len(photos)), 0, 1, generator, photos.device).cpu()
    coarse = []
    for photo, (chance, size, kind) in zip(photos.tensor_split(len(photos)), chances.T.tolist(), strict=True):
        if chance < probability:
            small = functional.interpolate(photo, (28 + int(62 * size),) * 2, mode="area")
            mode = ("nearest", "bilinear", "bicubic")[int(3 * kind)]
            photo = functional.interpolate(small, photo.shape[2:], mode=mode).clamp(0, 255)
        coarse.append(photo)
    return torch.cat(coarse)


def paint(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Images of Fashion-MNIST, uint8 [N,1,28,28], as photos of a garment on a plain background, float32 [N,3,160,160].

    They are enlarged in one of three ways, warped, and get a random colour on a random background, often dark on white
    or light on black.
    """
    n, device = len(pixels), pixels.device
    modes = ("nearest", "bilinear", "bicubic")
    parts = (pixels.float() / 255).tensor_split(len(modes))
    cover = torch.cat(
        [
            warp(part, generator, (0.4, 1.05), 0.15, stretch=0.1, mode=mode, outside="zeros")
            for part, mode in zip(parts, modes, strict=True)
            if len(part)
        ]
    ).clamp(0, 1)
    colours = uniform((2, n, 3, 1, 1), 0, 255, generator, device)
    kind, coloured, extreme, noisy = uniform((4, n, 1, 1, 1), 0, 1, generator, device)
    background, garment = torch.where(coloured < 0.5, colours[:, :, :1], colours)
    background = torch.where(kind < 0.4, 255.0, torch.where(kind < 0.6, 0.0, background))
    is_close = (garment - background).abs().amax(dim=1, keepdim=True) < 90
    opposite = torch.where(background.mean(dim=1, keepdim=True) > 127, 0.0, 255.0)
    garment = torch.where(is_close | (extreme < 0.4), opposite, garment)
    noise = torch.randn(cover.shape[0], 3, *cover.shape[2:], generator=generator, device=generator.device).to(device)
    painted: Tensor = background + (garment - background) * cover + noise * (6 * noisy - 3).clamp_min(0)
    return painted.clamp(0, 255)


def uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Random numbers, float32 of this shape, from `low` to `high`, drawn on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device).to(device)
