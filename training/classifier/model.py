"""The class names and the networks: uint8 [N,1,28,28] in, logits [N,10] out.

Scaling and normalisation happen in here, so that training and serving cannot disagree.
"""

import numpy as np
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
MAX_WIDTH = 4096  # channels; a checkpoint that asks for more is not one of ours


class Net(nn.Module):
    """The tutorial's network, 11,252 parameters.

    With `sigmoid`, as the tutorial wrote it, the logits lie in [0, 1], so that no probability
    exceeds e / (e + 9) = 0.232 before calibration.
    """

    def __init__(self, sigmoid: bool = True) -> None:
        super().__init__()
        if not isinstance(sigmoid, bool):
            raise TypeError(f"sigmoid is True or False, not {sigmoid}")
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
        return logits.sigmoid() if self.sigmoid else logits


class ConvNet(nn.Module):
    """Our network: four 3×3 convolutions with batch normalisation, the last one residual, and a maximum over the image.

    Pooling stands before the normalisation and the activation, which then touch a quarter of the memory; on two CPU
    cores that is worth more time than a wider network.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 48, 80), dropout: float = 0.0) -> None:
        super().__init__()
        if not all(isinstance(width, int) and 0 < width <= MAX_WIDTH for width in widths):
            raise ValueError(f"widths are whole numbers from 1 to {MAX_WIDTH}, not {widths}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a share from 0 to 1, not {dropout}")
        low, middle, high = widths
        self.features = nn.Sequential(
            convolution(1, low, nn.MaxPool2d(2)),  # (N, low, 14, 14)
            convolution(low, middle, nn.MaxPool2d(2)),  # (N, middle, 7, 7)
            convolution(middle, high),  # (N, high, 7, 7)
        )
        self.residual = convolution(high, high)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(high, len(CLASSES))
        self.to(memory_format=channels_last)  # the CPU's convolutions run twice as fast this way

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10] of `pixels` uint8 [N,1,28,28]; float32 or, under autocast, bfloat16."""
        x = (pixels.float() - PIXEL_MEAN) / PIXEL_STD
        x = self.features(x.contiguous(memory_format=channels_last))
        x = x + self.residual(x)
        logits: Tensor = self.head(self.dropout(x.amax(dim=(2, 3))))
        return logits


def convolution(channels_in: int, channels_out: int, *pooling: nn.Module) -> nn.Sequential:
    """A 3×3 convolution that keeps the size, then `pooling`, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False),
        *pooling,
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


ARCHITECTURES: dict[str, type[nn.Module]] = {"Net": Net, "ConvNet": ConvNet}
