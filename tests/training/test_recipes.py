from dataclasses import FrozenInstanceError, replace

import pytest

from classifier.checkpoint import RECIPE_NAME
from classifier.networks import ARCHITECTURES, MAX_WIDTH
from training.recipes import FAST, GPU_RECIPES, RECIPES, TUTORIAL, TUTORIAL_LOGITS, Recipe, find_recipe

ALL = {f"{device} {name}": find_recipe(name, device) for device in ("cpu", "cuda") for name in RECIPES}


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_recipe_makes_a_network_and_a_checkpoint_can_name_it(recipe: Recipe) -> None:
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) > 10_000
    assert RECIPE_NAME.fullmatch(recipe.name)
    assert all(width <= MAX_WIDTH for width in recipe.arguments.get("widths", ()))


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_recipe_holds_back_images_and_trains_on_the_others(recipe: Recipe) -> None:
    assert 1_000 <= recipe.held_out <= 30_000
    assert recipe.epochs >= 1
    assert recipe.batch_size >= 1
    assert recipe.learning_rate > 0
    assert 0 <= recipe.warm_up < 1
    assert 0 <= recipe.label_smoothing < 1


def test_recipes_are_found_by_their_names() -> None:
    assert {"tutorial", "tutorial-logits", "fast"} <= RECIPES.keys()
    assert all(recipe.name == name for recipes in (RECIPES, GPU_RECIPES) for name, recipe in recipes.items())
    assert RECIPES.keys() == GPU_RECIPES.keys()


def test_a_gpu_has_recipes_of_its_own_under_the_same_names() -> None:
    assert find_recipe("fast", "cpu") == find_recipe("fast", "mps") == FAST != find_recipe("fast", "cuda")
    assert find_recipe("tutorial", "cuda") == TUTORIAL
    assert find_recipe("shipped", "cpu") == find_recipe("shipped", "cuda")  # so each costs the same to serve


def test_the_tutorial_is_reproduced_knob_by_knob() -> None:
    assert (TUTORIAL.architecture, TUTORIAL.arguments) == ("Net", {"sigmoid": True})
    assert (TUTORIAL.held_out, TUTORIAL.epochs, TUTORIAL.batch_size) == (12_000, 15, 20)
    assert (TUTORIAL.learning_rate, TUTORIAL.schedule, TUTORIAL.precision) == (0.04, "constant", "float32")
    assert (TUTORIAL.momentum, TUTORIAL.weight_decay, TUTORIAL.label_smoothing) == (0, 0, 0)
    assert (TUTORIAL.flip, TUTORIAL.shift, TUTORIAL.erase, TUTORIAL.spared) == (False, 0, 0, 0)
    assert TUTORIAL.optimizer == "sgd"


def test_tutorial_logits_differs_in_its_sigmoid_alone() -> None:
    assert replace(TUTORIAL_LOGITS, name="tutorial", arguments={"sigmoid": True}) == TUTORIAL


def test_a_recipe_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        FAST.epochs = 1  # type: ignore[misc]
