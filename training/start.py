"""What a network begins with: its random weights, filters made from the images, ImageNet weights, a teacher."""

from pathlib import Path

import torch
from torch import nn

from training.classifier import archive
from training.classifier.classifier import Classifier
from training.classifier.model import ARCHITECTURES, ConvNet, Pretrained
from training.command import TrainingError
from training.data import Images
from training.recipes import Recipe


def make_network(recipe: Recipe, training_images: Images, weights: Path | None = None) -> nn.Module:
    """The recipe's network, random but for what it takes over from these images or from ImageNet, on the CPU.

    Raises TrainingError, CheckpointError.
    """
    try:
        network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    except ImportError as error:
        raise TrainingError(
            f"this recipe needs the package {error.name}: pip install 'fashion-mnist-service[pretrained]'."
        ) from error
    except ValueError as error:
        raise TrainingError(f"{error}.") from error
    if isinstance(network, ConvNet):
        network.whiten(training_images.pixels)
    if isinstance(network, Pretrained):
        state_dict = archive.unpack(archive.read(weights), weights.name) if weights else None
        try:
            network.start(state_dict)
        except (OSError, RuntimeError) as error:
            source = f"{weights.name} does not hold" if weights else "there is no network to download"
            raise TrainingError(
                f"{source} timm's ImageNet weights of {network.name}; name a file with --weights."
            ) from error
    return network


def load_teacher(path: Path, device: torch.device) -> tuple[str, nn.Module]:
    """The name of a checkpoint and its network, which answers for the one view that it is shown.

    Raises CheckpointError.
    """
    classifier = Classifier.load(path, device.type)
    network = classifier.network.requires_grad_(False)
    if isinstance(network, ConvNet):
        network.views = 1
    return classifier.model, network
