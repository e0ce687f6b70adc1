from dataclasses import replace

import pytest
import torch

from training.pruning import Pruning
from training.recipes import Recipe

CPU = torch.device("cpu")
EASY, HARD = 600, 400


@pytest.fixture
def pruning(tiny_recipe: Recipe) -> Pruning:
    """For ten epochs of a thousand images, six hundred of them easy."""
    pruning = Pruning(replace(tiny_recipe, epochs=10, spared=0.75, spared_until=0.8), EASY + HARD, CPU)
    pruning.losses[:EASY], pruning.losses[EASY:] = 0.1, 2.0
    return pruning


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_easy_images_are_left_out_by_chance_and_the_others_count_for_them(pruning: Pruning) -> None:
    order, weights = pruning.choose(2, seeded(0))
    assert set(range(EASY, EASY + HARD)) < set(order.tolist())
    shown = order[order < EASY]
    assert len(shown) == pytest.approx(EASY / 4, rel=0.2)
    assert len(set(order.tolist())) == len(order)
    assert set(weights[:EASY].tolist()) == {4.0}
    assert set(weights[EASY:].tolist()) == {1.0}


def test_no_image_is_left_out_for_good(pruning: Pruning) -> None:
    shown = [set(pruning.choose(2, seeded(seed))[0].tolist()) for seed in range(40)]
    assert set.union(*shown) == set(range(EASY + HARD))


@pytest.mark.parametrize("epoch", [1, 9, 10])
def test_the_first_and_the_last_epochs_show_all(epoch: int, pruning: Pruning) -> None:
    order, weights = pruning.choose(epoch, seeded(0))
    assert sorted(order.tolist()) == list(range(EASY + HARD))
    assert order.tolist() != sorted(order.tolist())
    assert set(weights.tolist()) == {1.0}


def test_images_that_were_not_seen_yet_are_not_easy(tiny_recipe: Recipe) -> None:
    pruning = Pruning(replace(tiny_recipe, epochs=10, spared=0.75), EASY + HARD, CPU)
    assert len(pruning.choose(2, seeded(0))[0]) == EASY + HARD
    pruning.losses[:5] = 0.1
    assert len(pruning.choose(2, seeded(0))[0]) >= EASY + HARD - 5


def test_a_recipe_that_spares_nothing_shows_all(tiny_recipe: Recipe) -> None:
    assert tiny_recipe.spared == 0
    pruning = Pruning(tiny_recipe, EASY + HARD, CPU)
    pruning.losses[:EASY] = 0.0
    assert len(pruning.choose(3, seeded(0))[0]) == EASY + HARD


def test_equal_seeds_give_equal_orders(pruning: Pruning) -> None:
    orders = [pruning.choose(3, seeded(seed))[0] for seed in (5, 5, 6)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
