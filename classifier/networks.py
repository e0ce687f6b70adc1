"""The networks: pixels, uint8 [N,1,28,28], of PhotoNet [N,3,160,160] -> logits [N,10].

The networks scale and normalise the pixels themselves, so training and serving cannot differ in it.
"""

from reprlib import repr as shortened  # a checkpoint may hold an endless value
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, channels_last, nn
from torch.nn import functional

from classifier.photo_network import PhotoNet as PhotoNet
from classifier.pixels import CLASSES as CLASSES
from classifier.pixels import SHAPE
from classifier.pixels import SIDE as SIDE
from classifier.pixels import Pixels as Pixels
from classifier.pretrained import Pretrained as Pretrained

Logits = NDArray[np.float32]

PIXEL_MEAN, PIXEL_STD = 72.9, 90.0  # of the training images, in grey levels from 0 to 255
PATCH = 3  # pixels, the side of a whitening filter
FILTERS = 2 * PATCH**2  # each principal component of a patch, with both signs
WHITENING_IMAGES = 500  # the number of training images that the whitening filters are computed from
WHITENING_EPSILON = 0.1  # added to each variance, so that whitening does not amplify noise
# Limits for the arguments in a checkpoint, far above those of any recipe.
MAX_WIDTH = 4096  # channels of a stage
MAX_BLOCKS = 64  # residual convolutions of a stage
MAX_STAGES = 4  # feature maps of 7×7 are 1×1 after them


class Net(nn.Module):
    """The tutorial's network, 11,252 parameters.

    With `sigmoid`, as in the tutorial, logits are from 0 to 1, so before calibration no probability exceeds
    e / (e + 9) = 0.232. The tutorial has no activation behind the convolutions; `relu` adds one, for networks that do.
    """

    shape = SHAPE

    def __init__(self, sigmoid: bool = True, relu: bool = False) -> None:
        super().__init__()
        for name, value in ("sigmoid", sigmoid), ("relu", relu):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {shortened(value)}")
        self.sigmoid = sigmoid
        self.activation = nn.ReLU() if relu else nn.Identity()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 10, 5)
        self.ff1 = nn.Linear(10 * 4 * 4, 56)
        self.ff2 = nn.Linear(56, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float32 [N,10], of pixels, uint8 [N,1,28,28]."""
        x = pixels.float() / 255  # (N, 1, 28, 28)
        x = self.pool(self.activation(self.conv1(x)))  # (N, 6, 12, 12)
        x = self.pool(self.activation(self.conv2(x)))  # (N, 10, 4, 4)
        x = functional.relu(self.ff1(x.flatten(1)))  # (N, 56)
        logits: Tensor = self.ff2(x)
        if not self.sigmoid:
            return logits
        if self.training:
            return logits.sigmoid()
        # OpenVINO's sigmoid is an approximation: logits that saturate, and are equal in PyTorch, would differ.
        return 1 / (1 + (-logits).exp())


class ConvNet(nn.Module):
    """Our network: whitening filters, then stages of 3×3 convolutions, then the maximum over the feature map.

    The whitening filters are computed from training images by `whiten` and then fixed. They need no gradient, which
    saves a tenth of the training time on two CPU cores.

    Stage i has `widths[i]` channels: one convolution to change their number, then `blocks[i]` residual convolutions.
    The feature maps of the first stage have `side`×`side` points; each later stage halves the side. Pooling comes
    before normalisation and activation, which then work on a quarter of the points.

    Test-time augmentation: the logits are averaged over 1, 2 or 6 views of the image (`tta_views`); cost grows
    linearly. 2 views are the image and its mirror image; 6 are these two and both shifted by one pixel along a
    diagonal, in either direction.
    """

    shape = SHAPE

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 128),
        blocks: tuple[int, ...] = (0, 1),
        side: Literal[28, 14, 7] = 7,
        dropout: float = 0.0,
        tta_views: Literal[1, 2, 6] = 1,
    ) -> None:
        super().__init__()
        for name, values, lowest, highest in ("widths", widths, 1, MAX_WIDTH), ("blocks", blocks, 0, MAX_BLOCKS):
            integers = isinstance(values, tuple | list) and all(isinstance(value, int) for value in values)
            if not integers or not all(lowest <= value <= highest for value in values):
                raise ValueError(f"{name} must be integers from {lowest} to {highest}, not {shortened(values)}")
        if len(widths) != len(blocks) or not 1 <= len(widths) <= MAX_STAGES:
            raise ValueError(
                f"widths and blocks must have the same length, 1 to {MAX_STAGES}, not {len(widths)} and {len(blocks)}"
            )
        if not isinstance(side, int) or side not in (28, 14, 7):
            raise ValueError(f"side must be 28, 14 or 7, not {shortened(side)}")
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, not {shortened(dropout)}")
        if not isinstance(tta_views, int) or tta_views not in (1, 2, 6):
            raise ValueError(f"tta_views must be 1, 2 or 6, not {shortened(tta_views)}")
        self.tta_views = tta_views
        self.filters = nn.Conv2d(1, FILTERS, kernel_size=PATCH, padding=PATCH // 2).requires_grad_(False)
        layers: list[nn.Module] = [] if side == SIDE else [Pooling()]  # (N, 18, 28, 28) or (N, 18, 14, 14)
        layers.append(nn.ReLU(inplace=True))
        channels = FILTERS
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            halving = [Pooling()] if stage or side == 7 else []
            layers += [convolution(channels, width, *halving), *(Residual(width) for _ in range(count))]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, len(CLASSES))
        self.to(memory_format=channels_last)  # convolutions on a CPU are twice as fast in this order

    @torch.no_grad()
    def whiten(self, pixels: Tensor) -> None:
        """Sets the whitening filters from training images, uint8 [N,1,28,28].

        They are the principal components of 3×3 patches, scaled to about the same variance, each with both signs.
        Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU".
        """
        pixels = pixels[:WHITENING_IMAGES].cpu()
        patches = functional.unfold(normalised(pixels), PATCH).mT.flatten(0, 1)  # (N * 26 * 26, 9)
        variances, components = torch.linalg.eigh(patches.T.cov())
        filters = (components / (variances + WHITENING_EPSILON).sqrt()).T
        weights = {"weight": filters.view(-1, 1, PATCH, PATCH), "bias": -filters @ patches.mean(dim=0)}
        self.filters.load_state_dict({name: torch.cat([value, -value]) for name, value in weights.items()})

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10], float32 or under autocast bfloat16, of pixels, uint8 [N,1,28,28]."""
        views = [normalised(pixels)]
        if not self.training:
            if self.tta_views == 6:
                views += [shifted(views[0], 1), shifted(views[0], -1)]
            if self.tta_views > 1:
                views += [view.flip(-1) for view in views]
        first, *others = [self.logits(view) for view in views]
        return sum(others, first) / len(views)

    def one_view(self, pixels: Tensor) -> Tensor:
        """The logits of `forward` without test-time augmentation."""
        return self.logits(normalised(pixels))

    def logits(self, x: Tensor) -> Tensor:
        """Logits [N,10] of normalised images, float32 [N,1,28,28]."""
        x = self.features(self.filters(x.contiguous(memory_format=channels_last)))
        logits: Tensor = self.head(self.dropout(x.amax(dim=(2, 3))))
        return logits


def normalised(pixels: Tensor) -> Tensor:
    """Pixels, uint8 [N,1,28,28], as float32 with about mean 0 and variance 1."""
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


def shifted(x: Tensor, distance: int) -> Tensor:
    """Normalised images, float32 [N,1,28,28], shifted right and down by `distance` pixels, filled with background."""
    sides = (distance, -distance) * 2
    return functional.pad(x, sides, value=-PIXEL_MEAN / PIXEL_STD)


class Residual(nn.Module):
    """A residual connection around one 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.convolution(x)
        return y


class Pooling(nn.MaxPool2d):
    """2×2 maximum pooling; half of an odd side is rounded up."""

    def __init__(self) -> None:
        super().__init__(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad or x.device.type != "cpu" or any(side % 2 for side in x.shape[2:]):
            return functional.max_pool2d(x, 2, ceil_mode=True)
        # PyTorch's pooling on a CPU also finds where each maximum is, for the gradient: 1.8 ms a step, not 0.7.
        x = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
        return torch.maximum(x[..., ::2], x[..., 1::2])


def convolution(channels_in: int, channels_out: int, *pooling: nn.Module) -> nn.Sequential:
    """A 3×3 convolution with padding, then `pooling`, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        *pooling,
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def shape_of(network: nn.Module) -> tuple[int, int, int]:
    """The shape of an image that a network of ARCHITECTURES takes: channels, rows, columns."""
    shape: tuple[int, int, int] = type(network).shape  # type: ignore[attr-defined]
    return shape


ARCHITECTURES: dict[str, type[nn.Module]] = {
    "Net": Net,
    "ConvNet": ConvNet,
    "PhotoNet": PhotoNet,
    "Pretrained": Pretrained,
}
