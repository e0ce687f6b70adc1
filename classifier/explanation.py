"""Explanation of a prediction: the feature maps of three layers, and for each class the evidence in the image."""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from classifier.classifier import Classifier, Prediction
from classifier.evidence import Evidence, class_activation_map, occlusion
from classifier.layers import Layer, Trace, shown_layers
from classifier.networks import PhotoNet, Pixels
from classifier.receptive_field import ReceptiveField

MAX_CHANNELS = 8  # of a layer, whose maps are shown
MAX_MAP_SIDE = 40  # cells; larger maps are reduced by means
MAX_CELLS = 4 * MAX_MAP_SIDE**2  # of a layer: fewer channels of larger maps
MAX_FEATURES = 128  # numbers of the vector before the last layer
SIMILAR = 0.99  # correlation of two maps, with either sign: only one of them is shown


@dataclass(frozen=True)
class Stage:
    """Feature maps of a layer."""

    layer: Layer
    shape: tuple[int, ...]  # of all of them: channels, rows, columns
    channels: list[int]  # those that are shown
    maps: NDArray[np.float64]  # [shown, rows, columns]
    field: ReceptiveField  # of the cells of `maps`, in pixels of the image


@dataclass(frozen=True)
class Explanation:
    """What a prediction rests on. With test-time augmentation, the maps are those of the image itself."""

    prediction: Prediction
    logits: list[float]
    stages: list[Stage]  # the first layer, one in the middle, the last feature maps
    features: list[float] | None  # the vector before the last layer; None if it has over MAX_FEATURES numbers
    evidence: Evidence | None  # None if the network is too large for it


class Explainer:
    """Explains predictions of one classifier. Not for several threads at once, but beside its predictions."""

    def __init__(self, classifier: Classifier, multiply_adds: int) -> None:
        """`multiply_adds` of one image."""
        self._classifier = classifier
        self._multiply_adds = multiply_adds
        self._network = sharing_weights(classifier.network)
        self._outputs: dict[str, list[Tensor]] = {}  # of the layers that are shown, by name, for each call
        self._features: list[Tensor] = []  # inputs of the last layer
        trace = Trace(self._network, classifier.device)
        self._layers = shown_layers(self._network, trace)
        self._fields = [trace.fields[layer.module, layer.call] for layer in self._layers]
        for name in {layer.module for layer in self._layers}:
            self._network.get_submodule(name).register_forward_hook(partial(self._keep_output, name))
        if trace.last_linear:
            self._network.get_submodule(trace.last_linear).register_forward_hook(self._keep_features)

    def _keep_output(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._outputs.setdefault(name, []).append(output.clone())  # the next layer may work in place

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features.append(inputs[0])

    def explain(self, pixels: Pixels) -> Explanation:
        """Explains the prediction for one image, uint8 [1,28,28] or [3,160,160].

        Raises CheckpointError if the logits overflow, as Classifier.predict does.
        """
        logits: list[float] = self._classifier.logits(pixels[None])[0].tolist()
        prediction = self._classifier.prediction(logits)
        self._outputs.clear()
        self._features.clear()
        with torch.inference_mode():
            self._network(torch.from_numpy(pixels[None]).to(self._classifier.device))
            maps = [self._maps(layer) for layer in self._layers]
            stages = [
                make_stage(layer, found, field or ReceptiveField(pixels.shape[-1], 0, 0))  # not known: the whole image
                for layer, found, field in zip(self._layers, maps, self._fields, strict=True)
            ]
            features = self._features[0].flatten().tolist() if self._features else []
        if isinstance(self._network, PhotoNet):
            evidence: Evidence | None = class_activation_map(maps[-1], self._network.classifier)
        else:
            evidence = occlusion(self._classifier.logits, pixels, self._multiply_adds)
        few = 0 < len(features) <= MAX_FEATURES
        return Explanation(prediction, logits, stages, features if few else None, evidence)

    def _maps(self, layer: Layer) -> Tensor:
        """All maps of a layer, float32 [C,H,W], on the CPU."""
        maps = self._outputs[layer.module][layer.call][0].float().cpu()
        # PhotoNet's activation is no module. Its first layer is shown without one, as that of the other networks.
        return functional.relu6(maps) if isinstance(self._network, PhotoNet) and layer.module == "bn2" else maps


def make_stage(layer: Layer, maps: Tensor, field: ReceptiveField) -> Stage:
    """What is shown of the maps of a layer, float32 [C,H,W], whose cells have this receptive field."""
    shown = maps.nan_to_num().double()
    while shown.shape[-1] > MAX_MAP_SIDE:
        shown = functional.avg_pool2d(shown, 2)
        field = field.behind(2, 2, 0)
    channels = distinct_channels(shown, min(MAX_CHANNELS, MAX_CELLS // shown[0].numel()))
    return Stage(layer, tuple(maps.shape), channels, shown[channels].numpy(), field)


def distinct_channels(maps: Tensor, count: int) -> list[int]:
    """At most `count` channels of maps, float64 [C,H,W], in their order: those that vary most.

    Of maps that are alike, or one the negative of the other as half of the whitening filters are, only one is taken.
    """
    centred = maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True)  # (C, H * W)
    spread = centred.norm(dim=1)
    units = centred / spread.clamp_min(torch.finfo(spread.dtype).tiny)[:, None]
    chosen: list[int] = []
    while len(chosen) < count and spread.max() >= 0:
        chosen.append(int(spread.argmax()))
        alike = (units @ units[chosen[-1]]).abs() > SIMILAR
        spread[alike] = spread[chosen[-1]] = -1
    return sorted(chosen)


def sharing_weights(network: nn.Module) -> nn.Module:
    """A copy of a network with the same tensors. Its hooks are not called when another thread runs the network."""
    tensors = (*network.parameters(), *network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
