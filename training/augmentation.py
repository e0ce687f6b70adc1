"""Batch augmentation on the device: each function takes and returns uint8 [N,1,28,28], never changing its input."""

import torch
from torch import Tensor
from torch.nn import functional


def flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images left to right."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, generator=generator, device=generator.device).to(pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(-1), pixels)


def shift(pixels: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Moves each image by up to `reach` pixels along both axes; ground moves in."""
    n, _, height, width = pixels.shape
    padded = functional.pad(pixels, (reach,) * 4)
    windows = padded[:, 0].unfold(1, height, 1).unfold(2, width, 1)  # a view: (N, 2r+1, 2r+1, 28, 28)
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator, device=generator.device).to(pixels.device)
    return windows[torch.arange(n, device=pixels.device), down, right].unsqueeze(1)


def erase(pixels: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Fills a rectangle of that share of the images with noise: 2 to 40 % of the image, no more than 3.3 times as long
    as wide (random erasing, Zhong et al. 2020)."""
    n, _, height, width = pixels.shape
    area, shape, top, left, chance = torch.rand(5, n, 1, 1, 1, generator=generator, device=generator.device).to(
        pixels.device
    )
    area = (0.02 + 0.38 * area) * height * width
    ratio = 0.3 ** (2 * shape - 1)
    rows, columns = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top, left = top * (height - rows), left * (width - columns)
    y = torch.arange(height, device=pixels.device).view(1, 1, -1, 1) + 0.5  # the centres of pixels
    x = torch.arange(width, device=pixels.device).view(1, 1, 1, -1) + 0.5
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns) & (chance < share)
    noise = torch.randint(256, pixels.shape, generator=generator, dtype=torch.uint8, device=generator.device).to(
        pixels.device
    )
    return torch.where(inside, noise, pixels)
