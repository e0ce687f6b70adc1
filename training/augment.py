"""Batch augmentation on the device: each function takes and returns uint8 [N,1,28,28], never changing its input."""

import torch
from torch import Tensor
from torch.nn import functional


def flip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors half of the images left to right."""
    mirrored = torch.rand(len(pixels), 1, 1, 1, generator=generator).to(pixels.device) < 0.5
    return torch.where(mirrored, pixels.flip(-1), pixels)


def shift(pixels: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Moves each image by up to `reach` pixels along both axes; ground moves in."""
    n, _, height, width = pixels.shape
    padded = functional.pad(pixels, (reach,) * 4)
    windows = padded[:, 0].unfold(1, height, 1).unfold(2, width, 1)  # a view: (N, 2r+1, 2r+1, 28, 28)
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator).to(pixels.device)
    return windows[torch.arange(n, device=pixels.device), down, right].unsqueeze(1)


def erase(pixels: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Blackens a `side`×`side` square of each image, centred anywhere (cutout, DeVries & Taylor 2017)."""
    n, _, height, width = pixels.shape
    centre = torch.rand(2, n, 1, 1, 1, generator=generator).to(pixels.device)
    rows = torch.arange(height, device=pixels.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=pixels.device).view(1, 1, 1, -1)
    top, left = centre[0] * height - side / 2, centre[1] * width - side / 2
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return pixels.masked_fill(inside, 0)
