"""The tutorial's network with torchvision's transforms, as in the tutorial. Every peer serves it.

The environment variable BENCH_WEIGHTS names the file of its weights, a bare state dict.
"""

import os
from typing import Any, BinaryIO

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from classifier.networks import CLASSES, SIDE

WEIGHTS = "BENCH_WEIGHTS"

to_pixels = transforms.Compose([transforms.Grayscale(), transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 10, 5)
        self.ff1 = nn.Linear(10 * 4 * 4, 56)
        self.ff2 = nn.Linear(56, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits float32 [N,10] in [0, 1], after the tutorial's sigmoid, of `pixels` float32 [N,1,28,28] in [0, 1]."""
        x = self.pool(self.conv1(pixels))  # (N, 6, 12, 12)
        x = self.pool(self.conv2(x))  # (N, 10, 4, 4)
        x = torch.relu(self.ff1(torch.flatten(x, 1)))  # (N, 56)
        return torch.sigmoid(self.ff2(x))


def load() -> Net:
    """The network with the weights of the file that BENCH_WEIGHTS names."""
    network = Net()
    network.load_state_dict(torch.load(os.environ[WEIGHTS], weights_only=True))
    return network.eval()


def read_pixels(file: BinaryIO) -> Tensor:
    """Decodes a picture to float32 [1,28,28] in [0, 1]."""
    pixels: Tensor = to_pixels(Image.open(file))
    return pixels


@torch.inference_mode()
def predict(network: Net, pixels: Tensor) -> list[dict[str, Any]]:
    """The class and the probabilities of each picture in `pixels`, float32 [N,1,28,28] in [0, 1]."""
    rows: list[list[float]] = network(pixels).softmax(dim=1).tolist()
    return [
        {"class": CLASSES[row.index(max(row))], "probabilities": dict(zip(CLASSES, row, strict=True))} for row in rows
    ]
