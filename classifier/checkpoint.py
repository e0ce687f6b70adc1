"""The checkpoint file: save, load, describe, and build the network.

A checkpoint is a plain dict, written by `torch.save`, which `torch.load(..., weights_only=True)` reads too. Nothing in
it is executed. A bare `state_dict` of the tutorial's Net loads too.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier import torch_file, tutorial
from classifier.networks import ARCHITECTURES, CLASSES
from classifier.torch_file import CheckpointError as CheckpointError
from classifier.uncertainty import TEMPERATURES as TEMPERATURES
from classifier.uncertainty import calibration
from classifier.weights import blank_network, check_costs, check_weights

FORMAT = 1
RECIPE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
# Network arguments and recipe settings that were renamed: a checkpoint with old names is read as if it had the new.
NEW_NAMES = {
    "views": "tta_views",
    "held_out": "validation_images",
    "kept": "keep",
    "warm_up": "warmup_fraction",
    "filter_learning_rate": "muon_learning_rate",
    "filter_momentum": "muon_momentum",
    "taught": "distillation_weight",
    "softness": "distillation_temperature",
    "spared": "prune_ratio",
    "spared_until": "prune_until",
    "shift": "shift_pixels",
    "erase": "erase_probability",
}
NEW_VALUES = {"keep": {"lowest loss": "best"}, "schedule": {"triangle": "triangular"}}
FIELDS: dict[str, type] = {
    "format": int,
    "architecture": dict,
    "state_dict": dict,
    "classes": list,
    "calibration": dict,
    "metrics": dict,
    "training": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with its calibration, metrics and the facts of its training."""

    architecture: str  # a key of ARCHITECTURES
    arguments: dict[str, Any]  # of the network's constructor
    state_dict: dict[str, Tensor]  # on the CPU: float32 or float16, and int64 for counters
    calibration: dict[str, float] = field(default_factory=lambda: {"temperature": 1.0})
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""  # of the file that it was loaded from
    assumption: str = ""  # one sentence about what the file does not say and was assumed

    @property
    def recipe(self) -> str:
        return str(self.training.get("recipe", "unknown"))

    @property
    def model(self) -> str:
        """The model's name in predictions: the recipe and the first 8 hex digits of the file's SHA-256."""
        return f"{self.recipe}-{self.sha256[:8]}"

    @property
    def parameters(self) -> int:
        """The number of the network's parameters."""
        with torch.device("meta"):
            return sum(p.numel() for p in ARCHITECTURES[self.architecture](**self.arguments).parameters())


def describe(checkpoint: Checkpoint) -> str:
    """One line for people: model, architecture, number of parameters, test accuracy if known."""
    accuracy = checkpoint.metrics.get("test_accuracy")
    suffix = f", {accuracy:.2%} on the test set" if isinstance(accuracy, float) and 0 <= accuracy <= 1 else ""
    return f"{checkpoint.model}, {checkpoint.architecture}, {checkpoint.parameters:,} parameters{suffix}"


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network with its weights, float32, on the CPU, in evaluation mode.

    Denormal weights (below 1.2e-38) are set to 0. Weight decay leaves them in dead channels.
    """
    with torch.device("meta"):  # without random weights, which take 20 ms for the photo network
        network = ARCHITECTURES[checkpoint.architecture](**checkpoint.arguments)
    if any(name not in checkpoint.state_dict for name, _ in network.named_buffers()):  # as in some of timm's networks
        network = ARCHITECTURES[checkpoint.architecture](**checkpoint.arguments)
    # The shipped checkpoint has 1,729 denormal weights. They make an Intel Xeon, not an AMD EPYC, five times slower.
    weights = {}
    for name, like in network.state_dict().items():
        found = checkpoint.state_dict[name]
        if found.is_floating_point():
            found = functional.hardshrink(found.float(), torch.finfo(torch.float32).tiny)
        weights[name] = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(found)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def save(checkpoint: Checkpoint, path: Path) -> str:
    """Writes the checkpoint to `path` atomically and returns the SHA-256 of the file. Raises CheckpointError."""
    return torch_file.write(
        {
            "format": FORMAT,
            "architecture": {"name": checkpoint.architecture, "arguments": checkpoint.arguments},
            "state_dict": {
                name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.state_dict.items()
            },
            "classes": list(CLASSES),
            "calibration": checkpoint.calibration,
            "metrics": checkpoint.metrics,
            "training": checkpoint.training,
        },
        path,
    )


def load(path: Path | str, expected_sha256: str | None = None) -> Checkpoint:
    """The checkpoint in the file at `path`; every field and every weight is checked. Raises CheckpointError.

    If `expected_sha256` is given, a file with another SHA-256 is refused before it is parsed.
    """
    path = Path(path)
    try:
        content = torch_file.read(path, ": train it with `python -m training.run`")
        sha256 = hashlib.sha256(content).hexdigest()
        if expected_sha256 not in (None, sha256):
            raise CheckpointError(f"{path.name} has the SHA-256 {sha256[:8]}…, not {expected_sha256[:8]}… as expected.")
        return check(torch_file.unpack(content, path.name), path.name, sha256)
    except CheckpointError as error:
        error.path = path
        raise


def check(found: dict[str, Any], name: str, sha256: str) -> Checkpoint:
    """The checkpoint in a dict of our format, or around a bare state dict of the tutorial. Raises CheckpointError."""
    if {"format", "architecture"} & found.keys():
        checkpoint = parse(found, name, sha256)
    else:
        weights = tutorial.find_weights(found, name)
        training = {"recipe": "tutorial"}
        assumption = f"{name} {tutorial.ASSUMPTION}"
        checkpoint = Checkpoint(
            "Net", {"sigmoid": True}, weights, training=training, sha256=sha256, assumption=assumption
        )
    network = blank_network(checkpoint.architecture, checkpoint.arguments, name)
    weights = check_weights(checkpoint.architecture, checkpoint.state_dict, network.state_dict(), name)
    check_costs(network, name)
    return replace(checkpoint, state_dict=weights)


def parse(found: dict[str, Any], name: str, sha256: str) -> Checkpoint:
    """The checkpoint in a dict of our format, with all fields checked except the weights. Raises CheckpointError."""
    for key, kind in FIELDS.items():
        if type(found.get(key)) is not kind:  # not isinstance: True is an int
            raise CheckpointError(
                f"{name} has no valid {key!r}: expected a checkpoint of `training.run` "
                "or the state_dict of the tutorial's Net."
            )
    if found["format"] != FORMAT:
        raise CheckpointError(
            f"{name} has format {torch_file.shortened(found['format'])}; this version reads format {FORMAT}."
        )
    if found["classes"] != list(CLASSES):
        raise CheckpointError(f"{name} is for other classes; expected are {', '.join(CLASSES)}, in this order.")
    if calibration(found["calibration"]) is None:
        lowest, highest = TEMPERATURES
        raise CheckpointError(
            f"{name} has no valid calibration: expected a temperature from {lowest:g} to {highest:g}, and perhaps "
            "thresholds of prediction sets and of familiarity."
        )
    recipe = found["training"].get("recipe")
    if not isinstance(recipe, str) or not RECIPE_NAME.fullmatch(recipe):
        raise CheckpointError(
            f"{name} has no valid name of a recipe: expected 1 to 40 letters, digits, '-' or '_' under 'training'."
        )
    architecture, arguments = found["architecture"].get("name"), found["architecture"].get("arguments")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES or type(arguments) is not dict:
        raise CheckpointError(f"{name} has an unknown architecture; known are {', '.join(ARCHITECTURES)}.")
    training = found["training"]
    if type(settings := training.get("settings")) is dict:
        settings = rename(settings)
        if type(settings_arguments := settings.get("arguments")) is dict:
            settings["arguments"] = rename(settings_arguments)
        training = training | {"settings": settings}
    return Checkpoint(
        architecture,
        rename(arguments),
        found["state_dict"],
        found["calibration"],
        found["metrics"],
        training,
        sha256,
    )


def rename(values: dict[str, Any]) -> dict[str, Any]:
    """Network arguments or recipe settings under their new names."""
    renamed = {NEW_NAMES.get(name, name): value for name, value in values.items()}
    for name, new_values in NEW_VALUES.items():
        if isinstance(old := renamed.get(name), str):
            renamed[name] = new_values.get(old, old)
    return renamed
