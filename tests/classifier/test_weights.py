"""Limits of a network's size and cost."""

from pathlib import Path

import pytest
import torch
from torch import nn

from classifier.checkpoint import Checkpoint, CheckpointError, build, load, save
from classifier.networks import ConvNet, Net, PhotoNet
from classifier.weights import blank_network, check_costs, costs, costs_by_running, costs_of
from tests.classifier.test_checkpoint import SHIPPED
from training.recipes import GPU_RECIPES, RECIPES, Recipe


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (1024,), "blocks": (2,), "side": 28, "tta_views": 6}, "multiply-adds, over the limit of 4,000,000"),
        (
            {"widths": (2048,), "blocks": (0,), "side": 28},
            "1,605,632 activations in a layer, over the limit of 1,048,576",
        ),
    ],
)  # fmt: skip
def test_a_network_of_too_much_work_is_refused(arguments: dict[str, object], words: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(Checkpoint("ConvNet", arguments, ConvNet(**arguments).state_dict(), training={"recipe": "x"}), tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "a")


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *GPU_RECIPES.values()], ids=lambda recipe: recipe.name)
def test_every_recipe_is_within_the_limits(recipe: Recipe) -> None:
    check_costs(blank_network(recipe.architecture, recipe.arguments, "a recipe"), "a recipe")


@pytest.mark.parametrize("network", [PhotoNet, Net, ConvNet])
def test_the_costs_of_a_network_are_those_of_running_it(network: type[nn.Module]) -> None:
    with torch.device("meta"):
        found = network()
    multiply_adds, activations = costs(found)
    assert (multiply_adds, activations) == costs_by_running(found)


def test_the_costs_of_the_shipped_network_are_those_in_the_documents() -> None:
    checkpoint = load(SHIPPED)
    multiply_adds, _ = costs(build(checkpoint))
    assert multiply_adds == 8_132_384


def test_multiply_adds_and_parameters_of_the_tutorials_net() -> None:
    multiply_adds, _ = costs_of(Net())
    assert multiply_adds == 24 * 24 * 6 * 25 + 8 * 8 * 10 * 150 + 160 * 56 + 56 * 10 == 191_920
    assert Checkpoint("Net", {}, {}).parameters == 11_252


def test_multiply_adds_of_a_convnet() -> None:
    middle, high = 3, 4
    convolutions = 28**2 * 18 + 14**2 * 18 * middle + 7**2 * middle * high + 4**2 * high * high
    assert costs_of(ConvNet((middle, high)))[0] == 9 * convolutions + 10 * high
    assert costs_of(ConvNet((middle, high), tta_views=6))[0] == 6 * (9 * convolutions + 10 * high)
