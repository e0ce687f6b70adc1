"""Pretrained: a network of timm with ImageNet weights; images, uint8 [N,1,28,28] -> logits [N,10]."""

from reprlib import repr as shortened  # a checkpoint may hold an endless value
from typing import Any

from torch import Tensor, channels_last, nn
from torch.nn import functional

from classifier.pixels import CLASSES, SHAPE, SIDE

MAX_SIDE = 16 * SIDE  # pixels; a limit for the argument in a checkpoint, far above that of any recipe


class Pretrained(nn.Module):
    """A network of timm (`backbone`), with one grey channel and ten classes, on images resized to `side`×`side`.

    Its weights are random until `start` copies those for ImageNet. Raises ImportError without timm. Raises ValueError
    unless timm lists the name, with or without the tag of its weights: timm would download others, or read a folder.
    """

    shape = SHAPE

    def __init__(self, backbone: str = "tf_efficientnet_lite0", side: int = 2 * SIDE) -> None:
        super().__init__()
        import timm

        if not isinstance(backbone, str) or backbone not in (*timm.list_models(), *timm.list_pretrained()):
            raise ValueError(f"timm has no network {shortened(backbone)}")
        if not isinstance(side, int) or not SIDE <= side <= MAX_SIDE:
            raise ValueError(f"side must be an integer from {SIDE} to {MAX_SIDE}, not {shortened(side)}")
        self.name, self.side = backbone, side
        self.backbone = self._create()
        mean, std = self.backbone.default_cfg["mean"], self.backbone.default_cfg["std"]
        self.mean, self.std = sum(mean) / len(mean), sum(std) / len(std)  # over the colours, from 0 to 1

    def _create(self, **options: Any) -> Any:
        import timm

        backbone = timm.create_model(self.name, in_chans=1, num_classes=len(CLASSES), **options)
        return backbone.to(memory_format=channels_last)

    def start(self, weights: dict[str, Tensor] | None) -> None:
        """Copies weights for ImageNet into the network; without `weights`, timm downloads them.

        timm sums those of the first layer over the colours and leaves the last layer random. Raises RuntimeError for
        weights of another network, which timm would ignore, and the exceptions of timm.
        """
        if weights is not None and not self.backbone.state_dict().keys() <= weights.keys():
            raise RuntimeError(f"weights of another network, not the weights of {self.name}")
        overlay = {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": weights}}
        self.backbone = self._create(pretrained=True, **overlay)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [N,10], float32 or under autocast bfloat16, of pixels, uint8 [N,1,28,28]."""
        x = (pixels.float() / 255 - self.mean) / self.std
        x = functional.interpolate(x, (self.side, self.side), mode="bilinear")
        logits: Tensor = self.backbone(x.contiguous(memory_format=channels_last))
        return logits
