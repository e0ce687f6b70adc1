"""The class names and the networks: uint8 [N,1,28,28] in, logits [N,10] out.

Scaling and normalisation happen in here, so that training and serving cannot disagree.
"""

from reprlib import repr as shortened  # what a file holds may be without end
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, channels_last, nn
from torch.nn import functional

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28  # pixels

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]

PIXEL_MEAN, PIXEL_STD = 72.9, 90.0  # of the training images, in grey levels of 0…255
PATCH = 3  # pixels, the side of what a fixed filter sees
FILTERS = 2 * PATCH**2
WHITENING_IMAGES = 500  # the first ones, whose patches are looked at
WHITENED = 0.1  # added to a component's variance, so that noise is not blown up
MAX_WIDTH = 4096  # channels; a checkpoint that asks for more is not one of ours
MAX_BLOCKS = 64  # residual convolutions of a stage; the same
MAX_STAGES = 4  # the same; of 7 points a side they leave 1
MAX_SIDE = 16 * SIDE  # pixels; the same


class Net(nn.Module):
    """The tutorial's network, 11,252 parameters.

    With `sigmoid`, as the tutorial wrote it, the logits lie in [0, 1], so that no probability
    exceeds e / (e + 9) = 0.232 before calibration.
    """

    def __init__(self, sigmoid: bool = True) -> None:
        super().__init__()
        if not isinstance(sigmoid, bool):
            raise TypeError(f"sigmoid is True or False, not {shortened(sigmoid)}")
        self.sigmoid = sigmoid
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 10, 5)
        self.ff1 = nn.Linear(10 * 4 * 4, 56)
        self.ff2 = nn.Linear(56, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits float32 [N,10] of `pixels` uint8 [N,1,28,28]."""
        x = pixels.float() / 255
        x = self.pool(self.conv1(x))  # (N, 6, 12, 12)
        x = self.pool(self.conv2(x))  # (N, 10, 4, 4)
        x = functional.relu(self.ff1(x.flatten(1)))  # (N, 56)
        logits: Tensor = self.ff2(x)
        if self.sigmoid and self.training:
            return logits.sigmoid()
        # Equal logits tie. ONNX Runtime approximates sigmoid, so that saturated ones differ in the last bit.
        return 1 / (1 + (-logits).exp()) if self.sigmoid else logits


class ConvNet(nn.Module):
    """Our network: fixed filters, then stages of 3×3 convolutions, and a maximum over the image.

    The fixed filters, which `whiten` sets, show the strong directions of a 3×3 patch equally strong. They need no
    gradient, which on two CPU cores is worth a tenth of the time. A stage widens the network to its channels of
    `widths` and adds so many residual convolutions as its `blocks` say, on maps of half the sides of those before; the
    first stage's have `side` points. Where a stage pools, it does so before normalisation and activation, which then
    touch a quarter of the memory.

    Test-time augmentation: the logits are averaged over 1, 2 or 6 views of the image (`tta_views`); cost grows
    linearly. 2 views are the image and its mirror image; 6 are these two and both moved by one pixel along a diagonal,
    either way.
    """

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
            whole = isinstance(values, tuple | list) and all(isinstance(each, int) for each in values)
            if not whole or not all(lowest <= each <= highest for each in values):
                raise ValueError(f"{name} are whole numbers from {lowest} to {highest}, not {shortened(values)}")
        if len(widths) != len(blocks) or not 1 <= len(widths) <= MAX_STAGES:
            raise ValueError(
                f"widths and blocks are of 1 to {MAX_STAGES} stages, not of {len(widths)} and {len(blocks)}"
            )
        if not isinstance(side, int) or side not in (28, 14, 7):
            raise ValueError(f"side is 28, 14 or 7, not {shortened(side)}")
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a share from 0 to 1, not {shortened(dropout)}")
        if not isinstance(tta_views, int) or tta_views not in (1, 2, 6):
            raise ValueError(f"tta_views is 1, 2 or 6, not {shortened(tta_views)}")
        self.tta_views = tta_views
        self.filters = nn.Conv2d(1, FILTERS, kernel_size=PATCH, padding=PATCH // 2).requires_grad_(False)
        layers: list[nn.Module] = [] if side == SIDE else [pooling()]  # (N, 18, 28, 28) or (N, 18, 14, 14)
        layers.append(nn.ReLU(inplace=True))
        channels = FILTERS
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            halving = [pooling()] if stage or side == 7 else []
            layers += [convolution(channels, width, *halving), *(Residual(width) for _ in range(count))]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, len(CLASSES))
        self.to(memory_format=channels_last)  # the CPU's convolutions run twice as fast this way

    @torch.no_grad()
    def whiten(self, pixels: Tensor) -> None:
        """Sets the fixed filters by training images, uint8 [N,1,28,28]: the principal components of their patches,
        each scaled to about the same variance, and each with both signs (as Jordan 2024 does for CIFAR-10)."""
        pixels = pixels[:WHITENING_IMAGES].cpu()
        patches = functional.unfold(normalised(pixels), PATCH).mT.flatten(0, 1)  # (N * 26 * 26, 9)
        variances, components = torch.linalg.eigh(patches.T.cov())
        filters = (components / (variances + WHITENED).sqrt()).T
        offsets = -filters @ patches.mean(dim=0)
        found = {"weight": filters.view(-1, 1, PATCH, PATCH), "bias": offsets}
        self.filters.load_state_dict({name: torch.cat([value, -value]) for name, value in found.items()})

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10] of `pixels` uint8 [N,1,28,28]; float32 or, under autocast, bfloat16."""
        seen = [normalised(pixels)]
        if not self.training:
            if self.tta_views == 6:
                seen += [moved(seen[0], 1), moved(seen[0], -1)]
            if self.tta_views > 1:
                seen += [x.flip(-1) for x in seen]
        first, *others = [self.logits(x) for x in seen]
        return sum(others, first) / len(seen)

    def logits(self, x: Tensor) -> Tensor:
        """Those of normalised images, float32 [N,1,28,28]."""
        x = self.features(self.filters(x.contiguous(memory_format=channels_last)))
        logits: Tensor = self.head(self.dropout(x.amax(dim=(2, 3))))
        return logits


def normalised(pixels: Tensor) -> Tensor:
    """float32 [N,1,28,28], of about mean 0 and variance 1."""
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


def moved(x: Tensor, distance: int) -> Tensor:
    """Normalised images, float32 [N,1,28,28], moved right and down by so many pixels; ground moves in."""
    sides = (distance, -distance) * 2
    return functional.pad(x, sides, value=-PIXEL_MEAN / PIXEL_STD)


class Residual(nn.Module):
    """Adds to its input what a convolution makes of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.convolution(x)
        return changed


def pooling() -> nn.Module:
    """The maximum of 2×2 points; an odd side is rounded up."""
    return nn.MaxPool2d(2, ceil_mode=True)


def convolution(channels_in: int, channels_out: int, *pooling: nn.Module) -> nn.Sequential:
    """A 3×3 convolution that keeps the size, then `pooling`, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        *pooling,
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Pretrained(nn.Module):
    """The network that timm calls `backbone`, for one grey channel and our ten classes, on images of `side` pixels.

    Its weights are random until `start` gives it those of ImageNet. Raises ImportError without timm, ValueError for a
    name that timm does not know by itself: others it would look for elsewhere.
    """

    def __init__(self, backbone: str = "tf_efficientnet_lite0", side: int = 2 * SIDE) -> None:
        super().__init__()
        import timm

        if not isinstance(backbone, str) or backbone not in timm.list_models():
            raise ValueError(f"timm has no network {shortened(backbone)}")
        if not isinstance(side, int) or not SIDE <= side <= MAX_SIDE:
            raise ValueError(f"side is a whole number from {SIDE} to {MAX_SIDE}, not {shortened(side)}")
        self.name, self.side = backbone, side
        self.backbone = self._create()
        mean, std = self.backbone.default_cfg["mean"], self.backbone.default_cfg["std"]
        self.mean, self.std = sum(mean) / len(mean), sum(std) / len(std)  # of the colours, in shares of white

    def _create(self, **options: Any) -> Any:
        import timm

        backbone = timm.create_model(self.name, in_chans=1, num_classes=len(CLASSES), **options)
        return backbone.to(memory_format=channels_last)

    def start(self, weights: dict[str, Tensor] | None) -> None:
        """Takes over weights for ImageNet, timm's own download if none are given.

        timm adds up the first layer's over the colours and leaves the last layer random. Raises RuntimeError for
        weights of another network, which timm would pass over in silence, and what timm raises.
        """
        if weights is not None and not self.backbone.state_dict().keys() <= weights.keys():
            raise RuntimeError(f"these are not the weights of {self.name}")
        overlay = {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": weights}}
        self.backbone = self._create(pretrained=True, **overlay)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10] of `pixels` uint8 [N,1,28,28]; float32 or, under autocast, bfloat16."""
        x = (pixels.float() / 255 - self.mean) / self.std
        x = functional.interpolate(x, (self.side, self.side), mode="bilinear")
        logits: Tensor = self.backbone(x.contiguous(memory_format=channels_last))
        return logits


ARCHITECTURES: dict[str, type[nn.Module]] = {"Net": Net, "ConvNet": ConvNet, "Pretrained": Pretrained}
