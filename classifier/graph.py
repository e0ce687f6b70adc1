"""A network as an OpenVINO model, layer by layer: pixels -> logits.

Building it takes 10 ms. The converters take longer and hold Python's lock, on which the event loop waits:
torch.onnx.export 0.4 s for the photo network, openvino.convert_model 0.8 s.
"""

import sys
from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from classifier.layers import WHITE, batch_norm_as_affine
from classifier.networks import PIXEL_MEAN, PIXEL_STD, ConvNet, Net, Residual, shape_of
from classifier.photo_network import MIDDLE, InvertedResidual, PhotoNet, SameConv2d, Separable
from classifier.pixels import SIDE

# OpenVINO's converter reports each import to Google Analytics, and writes an identifier into the home directory.
# Nothing here needs it. Without it nothing is sent, and the import takes a third of the time.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
import openvino  # noqa: E402
from openvino import opset1 as operators  # noqa: E402
from openvino.op import Constant  # noqa: E402

Array = NDArray[np.float32]
Node = Any  # an operator of OpenVINO, whose result is the tensor in question

LEVEL = round(PIXEL_MEAN)  # grey levels minus an integer are exact in bfloat16: a third less error in the logits


@cache
def core() -> openvino.Core:
    """OpenVINO's Core, one for each process: it loads the plugin for CPUs."""
    return openvino.Core()


def to_openvino(network: nn.Module, size: int) -> openvino.Model:
    """The OpenVINO model of `network`, in evaluation mode: `pixels`, uint8 [N,C,H,W] -> `logits`, float32 [N,10].

    N is `size`. The model shares the memory of the weights. Raises NotImplementedError for a network or a layer that
    has no translation.
    """
    build = NETWORKS.get(type(network))
    if build is None:
        raise NotImplementedError(f"there is no translation of {type(network).__name__}")
    pixels = operators.parameter([size, *shape_of(network)], np.uint8, "pixels")
    logits = build(network, operators.convert(pixels, "f32"))
    return openvino.Model([operators.result(logits, "logits")], [pixels])


def net(network: Net, pixels: Node) -> Node:
    x = layer(layer(convolution(pixels, network.conv1, divisor=WHITE), network.activation), network.pool)
    x = layer(layer(layer(x, network.conv2), network.activation), network.pool)
    x = operators.reshape(x, np.array([0, -1]), special_zero=True)
    x = layer(operators.relu(layer(x, network.ff1)), network.ff2)
    if not network.sigmoid:
        return x
    # As Net.forward: OpenVINO's sigmoid is an approximation, and logits that saturate, equal in PyTorch, would differ.
    return operators.divide(number(1), operators.add(number(1), operators.exp(operators.negative(x))))


def conv_net(network: ConvNet, pixels: Node) -> Node:
    """The mean of the logits over the views of the image, as in ConvNet.forward."""
    views = [operators.subtract(pixels, number(LEVEL))]
    if network.tta_views == 6:
        views += [shifted(views[0], 1), shifted(views[0], -1)]
    if network.tta_views > 1:
        views += [mirrored(view) for view in views]
    logits = []
    for view in views:
        x = layer(whitened(view, network.filters), network.features)
        logits.append(layer(operators.reduce_max(x, np.array([2, 3])), network.head))
    return operators.divide(reduce(operators.add, logits), number(len(logits)))


def photo_net(network: PhotoNet, pixels: Node) -> Node:
    x = operators.subtract(pixels, number(MIDDLE))
    x = relu6(convolution(x, network.conv_stem, network.bn1, MIDDLE))
    x = relu6(convolution(layer(x, network.blocks), network.conv_head, network.bn2))
    return layer(operators.reduce_mean(x, np.array([2, 3])), network.classifier)


NETWORKS: dict[type[nn.Module], Callable[[Any, Node], Node]] = {Net: net, ConvNet: conv_net, PhotoNet: photo_net}


def layer(x: Node, module: nn.Module) -> Node:
    """`module`, in evaluation mode, applied to `x`. Raises NotImplementedError for a layer that it does not know."""
    match module:
        case nn.Identity() | nn.Dropout():
            return x
        case nn.Sequential():
            match list(module):
                case [nn.Conv2d() as conv, *pooling, nn.BatchNorm2d() as norm, nn.ReLU()]:
                    return block(x, conv, pooling, norm)
                case layers:
                    return reduce(layer, layers, x)
        case nn.Conv2d():
            return convolution(x, module)
        case nn.Linear():
            x = operators.matmul(x, constant(array(module.weight)), False, True)
            return operators.add(x, constant(array(module.bias)))
        case nn.ReLU():
            return operators.relu(x)
        case nn.MaxPool2d():
            rounding = "ceil" if module.ceil_mode else "floor"
            return operators.max_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], rounding)
        case Residual():
            return operators.add(x, layer(x, module.convolution))
        case InvertedResidual():
            y = relu6(convolution(x, module.conv_pw, module.bn1))
            y = relu6(convolution(y, module.conv_dw, module.bn2))
            y = convolution(y, module.conv_pwl, module.bn3)
            return operators.add(x, y) if module.residual else y
        case Separable():
            return convolution(relu6(convolution(x, module.conv_dw, module.bn1)), module.conv_pw, module.bn2)
    raise NotImplementedError(f"there is no translation of the layer {type(module).__name__}")


def block(x: Node, conv: nn.Conv2d, pooling: list[nn.Module], norm: nn.BatchNorm2d) -> Node:
    """As networks.convolution: a convolution, maximum pooling or none, batch normalisation and ReLU.

    Normalisation and ReLU before pooling are computed with the sums of the convolution, before these are rounded to
    bfloat16. That is the same function only if no scale is negative. Else pooling comes first.
    """
    if not pooling or (norm.weight >= 0).all():
        return reduce(layer, pooling, operators.relu(convolution(x, conv, norm)))
    scale, bias = (per_channel(array(tensor)) for tensor in batch_norm_as_affine(norm))
    x = reduce(layer, pooling, convolution(x, conv))
    return operators.relu(operators.add(operators.multiply(x, scale), bias))


def convolution(x: Node, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None, divisor: float = 1.0) -> Node:
    """A convolution of x / divisor, with the batch normalisation behind it in its weights."""
    weights, bias = array(conv.weight) / np.float32(divisor), None if conv.bias is None else array(conv.bias)
    if norm is not None:
        scale, bias = (array(tensor) for tensor in batch_norm_as_affine(norm))
        weights = weights * scale[:, None, None, None]
    if isinstance(conv, SameConv2d):
        padding, begin, end = "same_upper", [0, 0], [0, 0]
    else:
        assert isinstance(conv.padding, tuple)
        padding, begin, end = "explicit", list(conv.padding), list(conv.padding)
    places = list(conv.stride), begin, end, [1, 1], padding
    if conv.groups == 1:
        x = operators.convolution(x, constant(weights), *places)
    else:
        x = operators.group_convolution(x, constant(weights[:, None]), *places)
    return x if bias is None else operators.add(x, per_channel(bias))


def relu6(x: Node) -> Node:
    return operators.clamp(x, 0.0, 6.0)


def whitened(levels: Node, filters: nn.Conv2d) -> Node:
    """The whitening filters of an image, given as pixels - LEVEL. Its padding is the mean, as in ConvNet.forward."""
    assert isinstance(filters.padding, tuple)
    margin = [0, 0, *filters.padding]
    padded = operators.pad(levels, margin, margin, "constant", number(PIXEL_MEAN - LEVEL))
    assert filters.bias is not None
    weights = array(filters.weight) / np.float32(PIXEL_STD)
    bias = array(filters.bias) + weights.sum(axis=(1, 2, 3)) * np.float32(LEVEL - PIXEL_MEAN)
    x = operators.convolution(padded, constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    return operators.add(x, per_channel(bias))


def shifted(x: Node, distance: int) -> Node:
    """As networks.shifted: right and down by `distance` pixels, filled with background."""
    before, after = ([0, 0, sign * distance, sign * distance] for sign in (1, -1))
    return operators.pad(x, before, after, "constant", number(-LEVEL))


def mirrored(x: Node) -> Node:
    return operators.gather(x, np.arange(SIDE)[::-1].copy(), np.array(3))


def number(value: float) -> Node:
    return operators.constant(np.float32(value))


def per_channel(values: Array) -> Node:
    return constant(values.reshape(1, -1, 1, 1))


def constant(values: Array) -> Node:
    return Constant(np.ascontiguousarray(values), shared_memory=True)


def array(tensor: Tensor) -> Array:
    values: Array = tensor.detach().cpu().numpy()
    return values
