"""Data augmentation on the device, one batch at a time.

Each function takes and returns uint8 [N,1,28,28], draws from `generator` and leaves its input unchanged.
"""

import torch
from torch import Tensor
from torch.nn import functional


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
