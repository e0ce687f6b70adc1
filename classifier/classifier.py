"""Classifier, a loaded checkpoint on a device: pixels -> Prediction. The only place where logits become one."""

from dataclasses import replace
from math import isfinite, isnan
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import torch

from classifier.checkpoint import Checkpoint, CheckpointError, build, load
from classifier.networks import CLASSES, Logits, Pixels, shape_of
from classifier.pixels import SHAPE
from classifier.runtime import Precision, choose_runtime
from classifier.uncertainty import (
    COVERAGES,
    FAMILIAR,
    Calibration,
    calibration,
    familiarity,
    prediction_set,
    probabilities_and_energy,
)

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
        "prediction_set": Annotated[
            dict[str, list[str]] | None,
            "the classes that hold the right one in 95 % and in 99 % of the pictures; null if the checkpoint has no "
            "thresholds for it",
        ],
        "familiarity": Annotated[
            Probability | None, "how much the picture looks like one of the ten classes; null as prediction_set"
        ],
        "familiar": Annotated[bool | None, "whether familiarity is at least 0.5"],
    },
)
"""The prediction for one picture, as the HTTP API and the commands give it. Each annotation describes its field."""


def prediction(probabilities: list[float], model: str, energy: float, fitted: Calibration) -> Prediction:
    """The prediction from ten probabilities, in the order of CLASSES. The first of equally probable classes wins."""
    confidence = max(probabilities)
    index = probabilities.index(confidence)
    sets = score = None
    if fitted.energy_scale:
        score = familiarity(energy, fitted)
        thresholds = zip(COVERAGES, fitted.thresholds, strict=True)
        sets = {coverage: prediction_set(probabilities, threshold) for coverage, threshold in thresholds}
    return {
        "class": CLASSES[index],
        "index": index,
        "confidence": confidence,
        "probabilities": dict(zip(CLASSES, probabilities, strict=True)),
        "model": model,
        "prediction_set": sets,
        "familiarity": score,
        "familiar": None if score is None else score >= FAMILIAR,
    }


class DeviceError(Exception):
    """The requested device does not exist here. The message is one sentence."""


def find_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is cuda, else mps, else cpu. Raises DeviceError."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, is_available in available.items() if is_available))
    if name not in available:
        raise DeviceError(f"Unknown device {name!r}: choose from {', '.join(DEVICES)}.")
    if not available[name]:
        raise DeviceError(f"PyTorch {torch.__version__} finds no {name} device on this machine; try --device auto.")
    return torch.device(name)


class Classifier:
    """Predicts the classes of images, uint8 [N,1,28,28] or [N,3,160,160]. `runtime` is "openvino" or "pytorch",
    `precision` "bfloat16" or "float32"."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: Precision = "auto") -> None:
        self.device = device
        self.network = build(checkpoint).to(device)
        self.checkpoint = replace(checkpoint, state_dict=self.network.state_dict())  # without a second copy
        self.shape = shape_of(self.network)
        self.model = checkpoint.model
        self.calibration = calibration(checkpoint.calibration) or Calibration()
        self.runtime, self.precision, self._run = choose_runtime(self.network, device, precision)

    @classmethod
    def load(
        cls, path: Path | str, device: str = "auto", expected_sha256: str | None = None, precision: Precision = "auto"
    ) -> "Classifier":
        """The classifier in a checkpoint file, after a smoke test. Raises CheckpointError and DeviceError.

        If `expected_sha256` is given, a file with another SHA-256 is refused.
        """
        classifier = cls(load(path, expected_sha256), find_device(device), precision)
        classifier.smoke_test(Path(path).name)
        return classifier

    def logits(self, pixels: Pixels) -> Logits:
        """The network's logits, float32 [N,10], before temperature scaling."""
        return self._run(pixels)

    def probabilities(self, logits: list[float]) -> list[float]:
        """Calibrated probabilities of the ten classes from the logits of one picture; they sum to 1 within 1e-6."""
        return probabilities_and_energy(logits, self.calibration.temperature)[0]

    def predict(self, pixels: Pixels) -> list[Prediction]:
        """One prediction for each of `pixels`, uint8 [N,1,28,28] or [N,3,160,160].

        Raises CheckpointError if the weights are so large that logits overflow, which may depend on the picture.
        """
        return [self.prediction(row) for row in self._run(pixels).tolist()]

    def prediction(self, logits: list[float]) -> Prediction:
        """The prediction from the logits of one picture. Raises CheckpointError if they are not numbers."""
        probabilities, energy = probabilities_and_energy(logits, self.calibration.temperature)
        if isnan(probabilities[0]):  # then all ten are: each is divided by their sum
            raise CheckpointError(f"{self.model} has weights so large that they overflow on this picture.")
        return prediction(probabilities, self.model, energy, self.calibration)

    def check_shape(self, shape: tuple[int, ...], name: str, setting: str) -> None:
        """Raises CheckpointError for the file `name` if the network takes images of another shape than `setting`."""
        if self.shape != shape:
            kinds = ("photos", "images of Fashion-MNIST") if shape == SHAPE else ("images of Fashion-MNIST", "photos")
            raise CheckpointError(f"{name} is a network for {kinds[0]}; {setting} needs one for {kinds[1]}.")

    def smoke_test(self, name: str) -> None:
        """Predicts a black and a white picture. Raises CheckpointError for the file `name` if logits overflow."""
        for level in (0, 255):
            [logits] = self.logits(np.full((1, *self.shape), level, np.uint8)).tolist()
            if not all(map(isfinite, self.probabilities(logits))):
                raise CheckpointError(f"{name} has weights so large that they overflow on {self.device.type}.")
