"""The answer of `GET /model`: for each network its size, training, metrics, limits, and the weights of its first layer.

A checkpoint may be a stranger's: what it says about itself is shortened and limited, and holds no path.
"""

import re
from functools import partial
from math import isfinite
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from classifier.layers import FirstLayer, first_layer
from classifier.networks import CLASSES
from classifier.pixels import SHAPE
from service.explanations import rounded
from service.logs import printable
from service.model_store import ModelStore, ServedModel
from service.page_files import cached_response, etag_of
from service.settings import Settings

TRAINING = (  # fields of a checkpoint's `training` that are shown
    "recipe", "seed", "epochs", "seconds", "device", "threads", "versions", "data", "photos", "commit", "settings",
)  # fmt: skip
MAX_VALUES = 200  # of a checkpoint, in one answer
MAX_DEPTH = 4  # levels of dicts and lists
MAX_ITEMS = 40  # of a dict or a list
MAX_NAME, MAX_TEXT = 40, 80  # characters
MAX_INTEGER = 2**53  # up to which JavaScript is exact
SEPARATORS = re.compile(r"[/\\]")  # of a path
LIMITS = (
    "Trained on Fashion-MNIST: 60,000 grey pictures of 28×28 pixels, each of one garment of an online shop on black.",
    "Every picture gets one of the ten classes, also one that shows something else.",
    "Shirts, T-shirts, pullovers and coats are taken for each other most often.",
    "Photos that are reduced to 28×28 pixels are often called something else; a shoe can be called a bag.",
)
PHOTO_LIMITS = (
    "Trained on phone photos of garments, and on images of Fashion-MNIST that were enlarged and coloured.",
    "Every picture gets one of the ten classes, also one that shows something else, such as a hat, a skirt or shorts.",
    "The photos show no bags and do not tell apart the three kinds of shoes: those it knows from Fashion-MNIST alone.",
    "Tops with long sleeves on a plain white or black background are often called Coat.",
    "Several garments in one picture, a garment that is worn, and drawings were not measured.",
)


class ModelCards:
    """What `GET /model` does. An answer is computed once for the networks that are loaded."""

    def __init__(self, settings: Settings, models: ModelStore, photos: ModelStore) -> None:
        self._max_upload_bytes = settings.max_upload_bytes
        self._models = models
        self._photos = photos
        self._served: list[ServedModel] = []  # the networks that the answer is about
        self._content = b""

    async def respond(self, request: Request) -> Response:
        """The networks that are loaded: their size, training, metrics, limits and first layer."""
        served = [self._models.current(), *([self._photos.current()] if self._photos.is_loaded else [])]
        if served != self._served:
            cards = [model_card(model) for model in served]
            self._content = to_json({"classes": CLASSES, "max_upload_bytes": self._max_upload_bytes, "networks": cards})
            self._served = served
        return cached_response(request, self._content, "application/json", etag_of(self._content))


def model_card(model: ServedModel) -> dict[str, Any]:
    classifier = model.classifier
    checkpoint = classifier.checkpoint
    clean = Cleaner()
    return {
        "model": checkpoint.model,
        "sha256": checkpoint.sha256,
        "input": classifier.shape,
        "architecture": checkpoint.architecture,
        "arguments": clean(checkpoint.arguments),
        "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
        "multiply_adds": model.multiply_adds,
        "temperature": classifier.calibration.temperature,
        "metrics": clean(checkpoint.metrics),
        "training": clean({name: checkpoint.training[name] for name in TRAINING if name in checkpoint.training}),
        "limits": LIMITS if classifier.shape == SHAPE else PHOTO_LIMITS,
        "first_layer": first_layer_answer(first_layer(classifier.network)),
    }


def first_layer_answer(layer: FirstLayer) -> dict[str, Any]:
    return {
        "weights": None if layer.weights is None else rounded_values(layer.weights.tolist()),
        "bias": None if layer.bias is None else rounded_values(layer.bias.tolist()),
        "mean": rounded(layer.mean),
        "std": rounded(layer.std),
        "padding": layer.padding,
        "stride": layer.stride,
    }


def rounded_values(values: Any) -> Any:
    return [rounded_values(value) for value in values] if isinstance(values, list) else rounded(values)


class Cleaner:
    """Values of a checkpoint as JSON can hold them, within limits. What is over a limit is left out, or null."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or value is None or isinstance(value, bool):
            return value if self._left >= 0 else None
        if isinstance(value, str):
            return text(value, MAX_TEXT)
        if isinstance(value, int):
            return value if abs(value) <= MAX_INTEGER else None
        if isinstance(value, float):
            return value if isfinite(value) else None
        if depth == MAX_DEPTH or not isinstance(value, dict | list | tuple):
            return None
        clean = partial(self, depth=depth + 1)
        if isinstance(value, dict):
            named = [(name, item) for name, item in value.items() if isinstance(name, str)]
            return {text(name, MAX_NAME): clean(item) for name, item in named[:MAX_ITEMS] if self._left > 0}
        return [clean(item) for item in value[:MAX_ITEMS] if self._left > 0]


def text(value: str, characters: int) -> str:
    """One line of ASCII, without the folders of a path."""
    return value if value in CLASSES else printable(SEPARATORS.split(value)[-1], characters)
