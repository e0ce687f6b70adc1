"""Receptive fields: which pixels of the image a cell of a feature map depends on, computed from the layers.

Source: Araujo et al. 2019, "Computing Receptive Fields of Convolutional Neural Networks".
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)  # layers whose outputs depend on a window of the input


class ReceptiveField(NamedTuple):
    """Cell i of a map depends on the pixels `start + stride * i` to `start + stride * i + size - 1`, along either axis.

    Pixels outside of the image are padding. In an image that was resized the numbers need not be whole.
    """

    size: float = 1
    stride: float = 1
    start: float = 0

    def behind(self, kernel: int, stride: int, padding: int) -> "ReceptiveField":
        """That of a map behind one more layer; `padding` is in cells, on the left."""
        size = self.size + (kernel - 1) * self.stride
        return ReceptiveField(size, self.stride * stride, self.start - padding * self.stride)


def resized(side: int, new_side: int) -> ReceptiveField:
    """That of the pixels of an image that was resized from `side` to `new_side` pixels by bilinear interpolation."""
    if side == new_side:
        return ReceptiveField()
    stride = side / new_side
    return ReceptiveField(3, stride, stride / 2 - 1.5)  # a pixel depends on those less than one pixel from its place


class FieldTracer:
    """Receptive fields while a network runs: `note` is a forward hook of its layers.

    A layer's input is recognised by its side. Of several maps with that side the largest field so far is taken: the
    branch of a residual connection that sees most.
    """

    def __init__(self, side: int, field: ReceptiveField) -> None:
        """`field` is that of the first layer's input, an image of `side`×`side` pixels."""
        self._fields = {side: field}

    def note(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(layer, WINDOWED) or not is_map(output) or inputs[0].shape[-1] not in self._fields:
            return
        before, after = inputs[0].shape[-1], output.shape[-1]
        found = self._fields[before].behind(*window(layer, before, after))
        if after not in self._fields or found.size > self._fields[after].size:
            self._fields[after] = found

    def of(self, output: Tensor) -> ReceptiveField | None:
        """That of a map which the network has just computed; None if a layer of another kind came before it."""
        return self._fields.get(output.shape[-1])


def is_map(output: object) -> bool:
    """Whether it is a batch of square feature maps."""
    return isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]


def window(layer: nn.Module, before: int, after: int) -> tuple[int, int, int]:
    """Kernel size, stride and left padding of a layer whose input has the side `before` and its output `after`.

    Padding that the layer's own `padding` does not account for is that of TensorFlow's "SAME" or of `ceil_mode`, where
    the odd cell is on the right.
    """
    kernel, dilation, stride, padding = (
        max(value) if isinstance(value := getattr(layer, name, 1), tuple) else value
        for name in ("kernel_size", "dilation", "stride", "padding")
    )
    extent = (kernel - 1) * dilation + 1
    if isinstance(padding, str) or (before + 2 * padding - extent) // stride + 1 != after:
        padding = max(0, (after - 1) * stride + extent - before) // 2
    return extent, stride, padding
