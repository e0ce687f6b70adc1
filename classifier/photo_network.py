"""PhotoNet: EfficientNet-Lite0 without its classifier layer for ImageNet; photos, uint8 [N,3,160,160] -> logits [N,10].

Source: Tan and Le 2019, "EfficientNet"; the Lite variants, which have ReLU6 and no squeeze-and-excitation, are Google's
of 2020. The names of the weights are those of timm's tf_efficientnet_lite0, from whose ImageNet weights it starts.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, channels_last, nn
from torch.nn import functional

from classifier.pixels import CLASSES, PHOTO_SHAPE

STAGES = (  # kernel size, stride, expansion of the channels, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, FEATURES = 32, 1280  # channels behind the first and the last convolution
BATCH_NORM_EPSILON = 1e-3
MIDDLE = 127.5  # grey level that the network takes as 0


class PhotoNet(nn.Module):
    """The photo network, 3.4 million parameters, 0.2 billion multiply-adds."""

    shape = PHOTO_SHAPE
    name = "tf_efficientnet_lite0"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, not {dropout!r:.40}")
        self.conv_stem = SameConv2d(3, STEM, 3, stride=2)
        self.bn1 = normalisation(STEM)
        stages, channels = [], STEM
        for kernel, stride, expansion, width, count in STAGES:
            blocks: list[nn.Module] = []
            for number in range(count):
                block = InvertedResidual if expansion > 1 else Separable
                blocks.append(block(channels, width, kernel, stride if number == 0 else 1, expansion))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, FEATURES, 1, bias=False)
        self.bn2 = normalisation(FEATURES)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(FEATURES, len(CLASSES))
        self.to(memory_format=channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10], float32 or under autocast bfloat16, of photos, uint8 [N,3,160,160], red, green, blue."""
        x = ((pixels.float() - MIDDLE) / MIDDLE).contiguous(memory_format=channels_last)
        x = functional.relu6(self.bn1(self.conv_stem(x)), inplace=True)  # (N, 32, 80, 80)
        x = self.blocks(x)  # (N, 320, 5, 5)
        x = functional.relu6(self.bn2(self.conv_head(x)), inplace=True)
        logits: Tensor = self.classifier(self.dropout(x.mean(dim=(2, 3))))
        return logits

    @torch.no_grad()
    def start(self, weights: Mapping[str, Tensor] | None) -> None:
        """Copies ImageNet weights of timm's tf_efficientnet_lite0, but not those of its last layer.

        Without `weights`, timm downloads them. Raises ImportError without timm, OSError if it cannot, and RuntimeError
        for weights of another network.
        """
        if weights is None:
            import timm

            weights = timm.create_model(self.name, pretrained=True).state_dict()
        last = {f"classifier.{name}": value for name, value in self.classifier.state_dict().items()}
        self.load_state_dict({**weights, **last})


class InvertedResidual(nn.Module):
    """A 1×1 convolution to more channels, one over each channel, and a 1×1 convolution to fewer, around which the
    input is added if the shape is the same (Sandler et al. 2018, "MobileNetV2")."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = expansion * channels_in
        self.residual = stride == 1 and channels_in == channels_out
        self.conv_pw = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = normalisation(width)
        self.conv_dw = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn2 = normalisation(width)
        self.conv_pwl = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = normalisation(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        wide = functional.relu6(self.bn2(self.conv_dw(wide)), inplace=True)
        y: Tensor = self.bn3(self.conv_pwl(wide))
        return x + y if self.residual else y


class Separable(nn.Module):
    """The same without more channels: one convolution over each channel, then a 1×1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(channels_in, channels_in, kernel, stride, groups=channels_in)
        self.bn1 = normalisation(channels_in)
        self.conv_pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = normalisation(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.bn1(self.conv_dw(x)), inplace=True)
        y: Tensor = self.bn2(self.conv_pw(x))
        return y


class SameConv2d(nn.Conv2d):
    """TensorFlow's padding "SAME" of an even side: with a stride of 2, one pixel more right and below than left and
    above."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)
        before = (kernel - 2) // 2
        self.sides = (before, kernel - 2 - before) * 2 if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self.sides) if self.sides else x)


def normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)
