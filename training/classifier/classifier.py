"""A loaded checkpoint on a device: pixels -> probabilities, and all else that an answer says."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from training.classifier.checkpoint import Checkpoint, CheckpointError, build, load
from training.classifier.compiled import CannotCompile, compile_network
from training.classifier.model import CLASSES, SIDE

DEVICES = ("auto", "cpu", "cuda", "mps")

Answer = TypedDict(
    "Answer",
    {"class": str, "index": int, "confidence": float, "probabilities": dict[str, float], "model": str},
)
"""What is said of one picture, in the words of the HTTP contract."""


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
    """Answers for pixels, uint8 [N,1,28,28]. Every answer in the project is made here."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.device = device
        self.network = build(checkpoint).to(device)
        self.run: Callable[[Tensor], Tensor] = self.network
        if device.type == "cpu":
            with suppress(CannotCompile):
                self.run = compile_network(self.network, torch.get_num_threads())
        self.model = checkpoint.model
        self.temperature = checkpoint.calibration["temperature"]

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> "Classifier":
        """The classifier in a checkpoint file, tried out. Raises CheckpointError, DeviceError."""
        classifier = cls(load(path), find_device(device))
        classifier.smoke_test(path.name)
        return classifier

    def logits(self, pixels: Tensor) -> Tensor:
        """The network's own words, float32 [N,10], on the device, before calibration."""
        with torch.inference_mode():
            return self.run(pixels.to(self.device)).float()

    def calibrated(self, logits: Tensor) -> Tensor:
        """Probabilities of `logits`, float64 [N,10], on the CPU; each row sums to 1 within 1e-6."""
        return (logits.cpu().double() / self.temperature).softmax(dim=1)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Calibrated probabilities, float64 [N,10], on the CPU."""
        return self.calibrated(self.logits(pixels))

    def answers(self, pixels: Tensor) -> list[Answer]:
        """What is said of each of the N pictures. Of classes that tie, the first is named."""
        return [self.answer(row) for row in self.probabilities(pixels).tolist()]

    def answer(self, probabilities: list[float]) -> Answer:
        """What is said of one picture with these probabilities of the ten classes."""
        confidence = max(probabilities)
        index = probabilities.index(confidence)
        return {
            "class": CLASSES[index],
            "index": index,
            "confidence": confidence,
            "probabilities": dict(zip(CLASSES, probabilities, strict=True)),
            "model": self.model,
        }

    def smoke_test(self, name: str) -> None:
        """Answers for a black and a white image; raises CheckpointError, which says `name`, unless these are finite."""
        extremes = torch.stack((torch.zeros(1, SIDE, SIDE), torch.full((1, SIDE, SIDE), 255))).byte()
        probabilities = self.probabilities(extremes)
        if not (probabilities.isfinite().all() and (probabilities.sum(dim=1) - 1).abs().max() < 1e-6):
            raise CheckpointError(f"{name} holds weights that give no probabilities on {self.device.type}.")
