"""The layers of a network that an explanation shows, by name and call, and the weights of the first one."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classifier.networks import PIXEL_MEAN, PIXEL_STD, ConvNet, Net, PhotoNet, Pretrained, shape_of
from classifier.photo_network import MIDDLE
from classifier.receptive_field import FieldTracer, ReceptiveField, is_map, resized

WHITE = 255.0  # grey level


class Layer(NamedTuple):
    """A layer whose maps are shown."""

    name: str  # in words
    module: str  # its name in PyTorch
    call: int = 0  # which of its calls, if the network calls it several times


class FirstLayer(NamedTuple):
    """The first convolution of a network: bias + sum(weight * (pixel - mean) / std) is a value of its maps.

    Pixels are grey levels or colours from 0 to 255. Outside of the image they have the level `mean`.
    """

    mean: float
    std: float
    padding: int | None = None  # pixels outside of the image, on the left and above
    stride: int | None = None
    weights: Tensor | None = None  # float32 [out, in, rows, columns]; None if there is no such layer
    bias: Tensor | None = None  # float32 [out]


class Trace:
    """What a network computes from a black image: its layers in order, and the receptive fields of their maps."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.fields: dict[tuple[str, int], ReceptiveField | None] = {}  # by the name of a layer and the call
        self.convolutions: list[str] = []  # those that give maps of several cells
        self.last_linear = ""
        shape = shape_of(network)
        side = network.side if isinstance(network, Pretrained) else shape[1]
        self._tracer = FieldTracer(side, resized(shape[1], side))
        self._calls: dict[str, int] = {}
        handles = [module.register_forward_hook(partial(self._note, name)) for name, module in network.named_modules()]
        with torch.inference_mode():
            network(torch.zeros(1, *shape, dtype=torch.uint8, device=device))
        for handle in handles:
            handle.remove()

    def _note(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = self._calls[name] = self._calls.get(name, -1) + 1
        if isinstance(module, nn.Linear):
            self.last_linear = name
        self._tracer.note(module, inputs, output)
        if is_map(output):
            self.fields[name, call] = self._tracer.of(output)
            if isinstance(module, nn.Conv2d) and call == 0 and output.shape[-1] > 1:
                self.convolutions.append(name)


def shown_layers(network: nn.Module, trace: Trace) -> list[Layer]:
    """The first layer, one in the middle and the last; of a network of timm its convolutions, if it has any."""
    if isinstance(network, Net):
        return [Layer("first convolution", "conv1"), Layer("second convolution", "conv2"), Layer("maxima", "pool", 1)]
    if isinstance(network, ConvNet):
        return convnet_layers(network)
    if isinstance(network, PhotoNet):
        blocks = len(network.blocks)
        middle = blocks // 2
        return [
            Layer("first convolution", "bn1"),
            Layer(f"block {middle + 1} of {blocks}", f"blocks.{middle}"),
            Layer("last convolution", "bn2"),
        ]
    names = trace.convolutions
    chosen = dict.fromkeys((0, len(names) // 2, len(names) - 1) if names else ())
    return [Layer(f"convolution {index + 1} of {len(names)}", names[index]) for index in chosen]


def convnet_layers(network: ConvNet) -> list[Layer]:
    children = list(network.features.named_children())
    activation = next(name for name, child in children if isinstance(child, nn.ReLU))
    blocks = [name for name, child in children if not isinstance(child, nn.ReLU | nn.MaxPool2d)]
    count = len(blocks)
    middle = (count - 2) // 2
    return [
        Layer("whitening filters", "filters"),
        Layer(f"convolution {middle + 1} of {count}", f"features.{blocks[middle]}")
        if count > 1
        else Layer("positive parts of the filters", f"features.{activation}"),
        Layer(f"convolution {count} of {count}", f"features.{blocks[-1]}"),
    ]


def first_layer(network: nn.Module) -> FirstLayer:
    """The first layer; that of the photo network with the batch normalisation behind it."""
    if isinstance(network, Net):
        return FirstLayer(0.0, WHITE, 0, 1, *detached(network.conv1.weight, network.conv1.bias))
    if isinstance(network, ConvNet):
        filters = network.filters
        padding = int(filters.padding[0])
        return FirstLayer(PIXEL_MEAN, PIXEL_STD, padding, 1, *detached(filters.weight, filters.bias))
    if isinstance(network, PhotoNet):
        scale, bias = batch_norm_as_affine(network.bn1)
        weights = network.conv_stem.weight * scale[:, None, None, None]
        return FirstLayer(MIDDLE, MIDDLE, 0, network.conv_stem.stride[0], *detached(weights, bias))
    assert isinstance(network, Pretrained)
    return FirstLayer(WHITE * network.mean, WHITE * network.std)


def batch_norm_as_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch normalisation in evaluation mode as scale * x + bias, both float32 [C]."""
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def detached(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if tensor is None else tensor.detach().cpu() for tensor in tensors)
