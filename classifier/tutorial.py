"""A bare state dict of the tutorial's Net, as its readers save it: found in a file, with what the file does not say."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from classifier.networks import Net
from classifier.torch_file import CheckpointError, shortened
from classifier.weights import difference

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # of DataParallel, torch.compile, Lightning
MAX_LEVELS = 3  # of dicts around the state dict
ASSUMPTION = (
    "is a bare state_dict, which does not say how the network computes: it is read as the tutorial's Net with "
    "pixels / 255 and no Normalize, no ReLU behind the convolutions, and a sigmoid at the end. If yours differs in any "
    "of these, its answers are wrong until you save it as docs/own-network.md says."
)


def expected_keys() -> list[str]:
    """The names of the eight tensors of the tutorial's Net."""
    with torch.device("meta"):
        return list(Net().state_dict())


def find_weights(found: dict[Any, Any], name: str) -> dict[str, Tensor]:
    """The tutorial's eight tensors in a dict, or in dicts in it, under their own names. Raises CheckpointError."""
    candidates = list(state_dicts(found))
    if not candidates:
        raise CheckpointError(
            f"{name} has no dict of tensors in it: expected a checkpoint of `training.run` "
            "or the state_dict of the tutorial's Net."
        )
    expected = expected_keys()
    matching = [(place, weights) for place, weights in candidates if weights.keys() == set(expected)]
    if len(matching) > 1:
        places = " and ".join(shortened(place) for place, _ in matching[:2])
        raise CheckpointError(f"{name} has {len(matching)} state dicts, under {places}: save one of them alone.")
    if not matching:
        raise CheckpointError(
            f"{name} is not the state_dict of the tutorial's Net, which has {', '.join(expected)}: it "
            f"{difference(candidates[0][1], expected)}. docs/own-network.md says how to serve another network."
        )
    return {key: matching[0][1][key] for key in expected}


def state_dicts(
    found: dict[Any, Any], place: str = "", levels: int = MAX_LEVELS
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dict of tensors in `found`, with the keys that lead to it; keys are without PREFIXES."""
    if found and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        yield place, without_prefixes(found)
    elif levels:
        for key, value in found.items():
            if isinstance(value, dict):
                yield from state_dicts(value, f"{place}.{key}".lstrip("."), levels - 1)


def without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in weights)), ""):
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    return weights
