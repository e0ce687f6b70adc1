"""What every test may use: a small set of images, and real checkpoints made from it."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from classifier.checkpoint import Checkpoint, save
from classifier.networks import SIDE, ConvNet, Net
from training.data import Images, split
from training.loop import loop
from training.recipes import FAST, Recipe

PERIODS = (2, 4, 6, 10, 14)  # pixels: five kinds of stripes, lying or standing, make ten classes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks: a second thread costs more than it brings, all the more on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """Here and in the processes that tests start, even where the tests were started to ignore it, as by `command &`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_images() -> Images:
    """400 images in random order: noise under bright stripes that are each class's own."""
    generator = torch.Generator().manual_seed(0)
    along = torch.arange(SIDE)
    standing = torch.stack([(along % period < period // 2).expand(SIDE, SIDE) for period in PERIODS])
    stripes = torch.cat((standing, standing.mT)).unsqueeze(1)
    labels = torch.randperm(400, generator=generator) % len(stripes)
    noise = torch.randint(0, 100, (len(labels), 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return Images(noise.masked_fill(stripes[labels], 255), labels)


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return replace(
        FAST,
        name="tiny",
        arguments={"widths": (8, 16)},
        held_out=100,
        epochs=4,
        batch_size=20,
        optimizer="sgd",
        spared=0.0,
        flip=False,
        precision="float32",
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_images: Images, tiny_recipe: Recipe) -> Path:
    """A checkpoint that was really trained, in less than a second."""
    torch.manual_seed(0)
    network = ConvNet(**tiny_recipe.arguments)
    progression = loop(Console(quiet=True), tiny_recipe, network, *split(tiny_images, tiny_recipe.held_out, 0), seed=0)
    assert progression.best_weights is not None
    path = tmp_path_factory.mktemp("models") / "tiny.pt"
    save(
        Checkpoint(
            tiny_recipe.architecture,
            tiny_recipe.arguments,
            progression.best_weights,
            metrics={"validation_loss": progression.best_loss, "test_accuracy": 0.5},
            training={"recipe": tiny_recipe.name, "seed": 0, "history": progression.history},
        ),
        path,
    )
    return path


@pytest.fixture(scope="session")
def tutorial_state_dict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the tutorial has on disk: the bare state dict of Net."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tutorial") / "model_scratch.pt"
    torch.save(Net().state_dict(), path)
    return path


def overflowing() -> Checkpoint:
    """A network whose first layer sees edges alone and whose second overflows on them: flat pictures are answered."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in Net().state_dict().items()}
    weights["conv1.weight"][:, :, 0, 0], weights["conv1.weight"][:, :, 4, 4] = 1e30, -1e30
    weights["conv2.weight"][:] = weights["ff1.weight"][:] = 1e30
    return Checkpoint("Net", {"sigmoid": False}, weights, training={"recipe": "overflowing"})
