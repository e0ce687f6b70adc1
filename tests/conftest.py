"""Fixtures for all tests: a small set of images and trained checkpoints."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import Checkpoint, save
from classifier.networks import SIDE, ConvNet, Net, PhotoNet
from training.data import Images, split
from training.loop import Run, train
from training.recipes import FAST, Recipe

PERIODS = (2, 4, 6, 10, 14)  # pixels, of stripes; five periods, vertical and horizontal, make ten classes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The networks are so small that a second thread slows them down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def sigint_handler() -> None:
    """Ctrl-C works here and in the processes that tests start, even where SIGINT was ignored, as by `command &`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_images() -> Images:
    """400 images in random order: noise under bright stripes whose period and direction depend on the class."""
    generator = torch.Generator().manual_seed(0)
    position = torch.arange(SIDE)
    vertical = torch.stack([(position % period < period // 2).expand(SIDE, SIDE) for period in PERIODS])
    stripes = torch.cat((vertical, vertical.mT)).unsqueeze(1)
    labels = torch.randperm(400, generator=generator) % len(stripes)
    noise = torch.randint(0, 100, (len(labels), 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    pixels = noise.masked_fill(stripes[labels], 255)
    pixels[:, :, :: SIDE - 1, :: SIDE - 1] = 0  # dark corners, as in Fashion-MNIST
    return Images(pixels, labels)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return replace(
        FAST,
        name="tiny",
        arguments={"widths": (8, 16)},
        validation_images=100,
        batch_size=20,
        epochs=4,
        optimizer="sgd",
        flip=False,
        prune_ratio=0.0,
        precision="float32",
    )


@pytest.fixture(scope="session")
def photo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo network that has learned nothing, in float16 as the recipe saves it."""
    torch.manual_seed(0)
    weights = {name: value.half() if value.ndim > 1 else value for name, value in PhotoNet().state_dict().items()}
    calibration = {"temperature": 1.0, "set_0.95": 0.5, "set_0.99": 0.05, "energy": 0.0, "energy_scale": 1.0}
    path = tmp_path_factory.mktemp("models") / "photos.pt"
    save(Checkpoint("PhotoNet", {}, weights, calibration, training={"recipe": "photos", "seed": 0}), path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_images: Images, tiny_recipe: Recipe) -> Path:
    """A trained checkpoint; training takes less than a second."""
    torch.manual_seed(0)
    network = ConvNet(**tiny_recipe.arguments)
    state = train(Run(tiny_recipe, network, *split(tiny_images, tiny_recipe.validation_images, seed=0)))
    assert state.best_weights is not None
    path = tmp_path_factory.mktemp("models") / "tiny.pt"
    save(
        Checkpoint(
            tiny_recipe.architecture,
            tiny_recipe.arguments,
            state.best_weights,
            metrics={"validation_loss": state.best_loss, "test_accuracy": 0.5},
            training={"recipe": tiny_recipe.name, "seed": 0, "history": state.history},
        ),
        path,
    )
    return path


@pytest.fixture(scope="session")
def tutorial_state_dict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the tutorial's code saves: the bare state dict of Net."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tutorial") / "model_scratch.pt"
    torch.save(Net().state_dict(), path)
    return path


def overflowing() -> Checkpoint:
    """A network whose logits overflow for a picture with edges and are finite for a flat one."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in Net().state_dict().items()}
    weights["conv1.weight"][:, :, 0, 0], weights["conv1.weight"][:, :, 4, 4] = 1e30, -1e30
    weights["conv2.weight"][:] = weights["ff1.weight"][:] = 1e30
    return Checkpoint("Net", {"sigmoid": False}, weights, training={"recipe": "overflowing"})
