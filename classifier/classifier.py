"""A loaded checkpoint on a device: pixels -> probabilities, and all else that an answer says."""

from math import exp, isfinite, isnan
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import torch

from classifier.checkpoint import Checkpoint, CheckpointError, build, load
from classifier.networks import CLASSES, SIDE, Logits, Pixels
from classifier.runtime import choose_runtime

DEVICES = ("auto", "cpu", "cuda", "mps")

Probability = Annotated[float, "from 0 to 1"]
Prediction = TypedDict(
    "Prediction",
    {
        "class": Annotated[str, "the most probable class"],
        "index": Annotated[int, "the number of that class, from 0 to 9"],
        "confidence": Annotated[Probability, "the probability of that class"],
        "probabilities": Annotated[dict[str, Probability], "the probabilities of all ten classes, which sum to 1"],
        "model": Annotated[str, "the recipe and the first 8 hex digits of the checkpoint's SHA-256"],
    },
)
"""The prediction for one picture, as the HTTP API and the commands give it. Each annotation describes its field."""


def prediction(probabilities: list[float], model: str) -> Prediction:
    """The prediction from ten probabilities, in the order of CLASSES. The first of equally probable classes wins."""
    confidence = max(probabilities)
    index = probabilities.index(confidence)
    return {
        "class": CLASSES[index],
        "index": index,
        "confidence": confidence,
        "probabilities": dict(zip(CLASSES, probabilities, strict=True)),
        "model": model,
    }


class DeviceError(Exception):
    """The device that was asked for is not there; one sentence."""


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes cuda, then mps, then cpu. Raises DeviceError."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if name not in available:
        raise DeviceError(f"Unknown device {name!r}: choose from {', '.join(DEVICES)}.")
    if not available[name]:
        raise DeviceError(f"PyTorch {torch.__version__} finds no {name} device on this machine; try --device auto.")
    return torch.device(name)


class Classifier:
    """Answers for pictures, uint8 [N,1,28,28]. Every answer in the project is made here.

    On a CPU the network runs by ONNX Runtime, wherever that is installed and can, else by PyTorch. Softmax over ten
    values is plain Python: a batch has few rows, and an array library's first steps cost more than ten exponentials.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.network = build(checkpoint).to(device)
        self.model = checkpoint.model
        self.temperature = checkpoint.calibration["temperature"]
        self.runtime, self._run = choose_runtime(self.network, device)

    @classmethod
    def load(cls, path: Path, device: str = "auto", pinned: str | None = None) -> "Classifier":
        """The classifier in a checkpoint file, which must have the SHA-256 `pinned` if that is given, tried out.

        Raises CheckpointError, DeviceError.
        """
        classifier = cls(load(path, pinned), find_device(device))
        classifier.smoke_test(path.name)
        return classifier

    def logits(self, pixels: Pixels) -> Logits:
        """The network's own words, float32 [N,10], before calibration."""
        return self._run(pixels)

    def probabilities(self, logits: list[float]) -> list[float]:
        """Calibrated probabilities of the ten classes from the logits of one picture; they sum to 1 within 1e-6."""
        highest = max(logits)
        odds = [exp((logit - highest) / self.temperature) for logit in logits]
        total = sum(odds)
        return [odd / total for odd in odds]

    def predict(self, pixels: Pixels) -> list[Prediction]:
        """One prediction for each of `pixels`, uint8 [N,1,28,28].

        Raises CheckpointError if finite weights overflow to NaN; some weights do so on some pictures only.
        """
        return [self._predict(row) for row in self._run(pixels).tolist()]

    def _predict(self, logits: list[float]) -> Prediction:
        probabilities = self.probabilities(logits)
        if isnan(probabilities[0]):  # then all ten are: each is divided by their sum
            raise CheckpointError(f"{self.model} holds weights that overflow on this picture.")
        return prediction(probabilities, self.model)

    def smoke_test(self, name: str) -> None:
        """Answers for a black and a white picture; raises CheckpointError, naming `name`, unless all is finite."""
        extremes = np.stack([np.zeros((1, SIDE, SIDE), np.uint8), np.full((1, SIDE, SIDE), 255, np.uint8)])
        for row in self.logits(extremes).tolist():
            if not all(map(isfinite, self.probabilities(row))):
                raise CheckpointError(f"{name} holds weights that give no probabilities on {self.device.type}.")
