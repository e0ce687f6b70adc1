"""What a network begins with: its random weights, filters made from the images, ImageNet weights, a teacher."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from classifier import torch_file
from classifier.classifier import Classifier
from classifier.networks import ARCHITECTURES, ConvNet, Pretrained
from training.command import TrainingError
from training.data import Images
from training.evaluate import all_logits
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
        state_dict = torch_file.unpack(torch_file.read(weights), weights.name) if weights else None
        try:
            network.start(state_dict)
        except (OSError, RuntimeError) as error:
            source = f"{weights.name} does not hold" if weights else "there is no network to download"
            raise TrainingError(
                f"{source} timm's ImageNet weights of {network.name}; name a file with --weights."
            ) from error
    return network


def load_teacher(path: Path, device: str, seed: int) -> Classifier:
    """The classifier in a checkpoint, to teach in a run with this seed. Raises CheckpointError, TrainingError.

    A teacher of another seed was trained on images that this run holds out. What it knows of them it would hand on, and
    the temperature, fitted on them, would come out too low.
    """
    teacher = Classifier.load(path, device)
    found = teacher.checkpoint.training.get("seed", seed)
    if found != seed:
        raise TrainingError(
            f"{path.name} was trained with seed {found}, on images that seed {seed} holds out; pass --seed {found}, "
            "or a teacher of this seed."
        )
    return teacher


def teach(images: Images, teacher: Classifier) -> Images:
    """The images with the teacher's answers."""
    return replace(images, answers=all_logits(teacher, images).to(images.pixels.device))
