"""The checkpoint file: save, load, describe.

A checkpoint is a `torch.save` of a plain dict that `torch.load(..., weights_only=True)` reads; nothing in it is ever
executed. A bare `state_dict` of the tutorial's Net, such as the tutorial's readers have on disk, loads too.
"""

import hashlib
import re
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classifier import torch_file
from classifier.networks import ARCHITECTURES, CLASSES, Net
from classifier.torch_file import MALFORMED
from classifier.torch_file import CheckpointError as CheckpointError

FORMAT = 1
RECIPE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
TEMPERATURES = (1e-3, 1e3)  # outside of this a temperature is a mistake
# Old names of arguments and recipe settings. Checkpoints from before the renaming are read as if they had the new ones.
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
    """All that a trained classifier is."""

    architecture: str  # a key of ARCHITECTURES
    arguments: dict[str, Any]  # of its constructor
    state_dict: dict[str, Tensor]  # float32 or bfloat16, on the CPU
    calibration: dict[str, float] = field(default_factory=lambda: {"temperature": 1.0})
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""  # of the file it was loaded from

    @property
    def recipe(self) -> str:
        return str(self.training.get("recipe", "unknown"))

    @property
    def model(self) -> str:
        """The name that answers carry: the recipe and the first 8 hex digits of the file's SHA-256."""
        return f"{self.recipe}-{self.sha256[:8]}"

    @property
    def parameters(self) -> int:
        """The number of learned values."""
        with torch.device("meta"):
            return sum(p.numel() for p in ARCHITECTURES[self.architecture](**self.arguments).parameters())


def describe(checkpoint: Checkpoint) -> str:
    """One line for people: what it is and what it reached."""
    accuracy = checkpoint.metrics.get("test_accuracy")
    reached = f", {accuracy:.2%} on the test set" if isinstance(accuracy, float) else ""
    return f"{checkpoint.model}, {checkpoint.architecture}, {checkpoint.parameters:,} parameters{reached}"


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network with its weights, float32, on the CPU, in evaluation mode.

    Weights below 1e-38 (denormal), to which decay brings those of a channel that died, become 0: some CPUs take a
    hundred times as long to multiply them.
    """
    network = ARCHITECTURES[checkpoint.architecture](**checkpoint.arguments)
    network.load_state_dict(checkpoint.state_dict)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor[tensor.abs() < torch.finfo(tensor.dtype).tiny] = 0
    return network.eval()


def save(checkpoint: Checkpoint, path: Path) -> str:
    """Writes `path`, whole or not at all, and returns the SHA-256 of the file. Raises CheckpointError."""
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


def load(path: Path, pinned: str | None = None) -> Checkpoint:
    """The checkpoint in the file at `path`, verified down to its last weight. Raises CheckpointError.

    With `pinned` only the file with that SHA-256 is looked into.
    """
    content = torch_file.read(path, ": train it with `python -m training.run`")
    sha256 = hashlib.sha256(content).hexdigest()
    if pinned not in (None, sha256):
        raise CheckpointError(f"{path.name} has the SHA-256 {sha256[:8]}…, not {pinned[:8]}… as expected.")
    found = torch_file.unpack(content, path.name)
    if found.keys() == tutorial_keys():
        checkpoint = Checkpoint("Net", {"sigmoid": True}, found, training={"recipe": "tutorial"}, sha256=sha256)
    else:
        checkpoint = interpret(found, path.name, sha256)
    try:
        check_weights(checkpoint, path.name)
    except MALFORMED as error:  # a nested tensor has no shape, and a tensor's methods may hide behind attributes
        raise CheckpointError(f"{path.name} holds something else than plain tensors as its weights.") from error
    return checkpoint


def tutorial_keys() -> Set[str]:
    """The names of the eight tensors of the tutorial's Net."""
    with torch.device("meta"):
        return Net().state_dict().keys()


def interpret(found: dict[str, Any], name: str, sha256: str) -> Checkpoint:
    """The checkpoint in a dict of our own format, its plain values checked."""
    for key, kind in FIELDS.items():
        if type(found.get(key)) is not kind:  # no subclass: True is no format
            raise CheckpointError(
                f"{name} has no valid {key!r}: expected a checkpoint of `training.run` "
                f"or the state_dict of the tutorial's Net with its {len(tutorial_keys())} tensors."
            )
    if found["format"] != FORMAT:
        raise CheckpointError(f"{name} has format {found['format']}; this version reads format {FORMAT}.")
    if found["classes"] != list(CLASSES):
        raise CheckpointError(f"{name} was trained for other classes than Fashion-MNIST's ten.")
    temperature = found["calibration"].get("temperature")
    if not isinstance(temperature, float) or not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise CheckpointError(f"{name} has no usable temperature in its calibration: expected a number near 1.")
    recipe = found["training"].get("recipe")
    if not isinstance(recipe, str) or not RECIPE_NAME.fullmatch(recipe):
        raise CheckpointError(f"{name} does not name its recipe in letters, digits, '-' and '_'.")
    architecture, arguments = found["architecture"].get("name"), found["architecture"].get("arguments")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES or type(arguments) is not dict:
        raise CheckpointError(f"{name} is of an unknown architecture; known are {', '.join(ARCHITECTURES)}.")
    training = found["training"]
    if type(settings := training.get("settings")) is dict:
        settings = with_new_names(settings)
        if type(of_network := settings.get("arguments")) is dict:
            settings["arguments"] = with_new_names(of_network)
        training = training | {"settings": settings}
    return Checkpoint(
        architecture,
        with_new_names(arguments),
        found["state_dict"],
        found["calibration"],
        found["metrics"],
        training,
        sha256,
    )


def with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a network, or settings of a recipe, with the names that they have today."""
    renamed = {NEW_NAMES.get(name, name): value for name, value in values.items()}
    for name, new_values in NEW_VALUES.items():
        if isinstance(old := renamed.get(name), str):
            renamed[name] = new_values.get(old, old)
    return renamed


def check_weights(checkpoint: Checkpoint, name: str) -> None:
    """Every tensor is there, dense, of the right shape and finite. The network is laid out without memory for it."""
    try:
        with torch.device("meta"):
            expected = ARCHITECTURES[checkpoint.architecture](**checkpoint.arguments).state_dict()
    except ImportError as error:
        raise CheckpointError(
            f"{name} needs the package {error.name}: pip install 'fashion-mnist-service[pretrained]'."
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} has arguments that do not make a {checkpoint.architecture}.") from error
    if sum(blank.nbytes for blank in expected.values()) > torch_file.MAX_BYTES:
        raise CheckpointError(f"{name} is of a network of over {torch_file.MAX_BYTES:,} bytes, the limit.")
    if checkpoint.state_dict.keys() != expected.keys():
        raise CheckpointError(f"{name} does not hold the {len(expected)} tensors of a {checkpoint.architecture}.")
    for key, blank in expected.items():
        tensor = checkpoint.state_dict[key]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{name} holds something else than a dense tensor under {key!r}.")
        if tensor.shape != blank.shape:
            raise CheckpointError(
                f"{name} has {key!r} of shape {list(tensor.shape)}; "
                f"{checkpoint.architecture} expects {list(blank.shape)}."
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16) and tensor.dtype != blank.dtype:
            raise CheckpointError(f"{name} has {key!r} in {tensor.dtype}; expected float32 or bfloat16.")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds weights that are not finite, under {key!r}.")
