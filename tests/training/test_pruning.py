from dataclasses import replace

import pytest
import torch

from training.pruning import Pruning
from training.recipes import Recipe

CPU = torch.device("cpu")
EASY, HARD = 600, 400


@pytest.fixture
def pruning(tiny_recipe: Recipe) -> Pruning:
    """Ten epochs, EASY images of a low loss and HARD ones of a high loss."""
    pruning = Pruning(replace(tiny_recipe, epochs=10, prune_ratio=0.75, prune_until=0.8), EASY + HARD, CPU)
    pruning.losses[:EASY], pruning.losses[EASY:] = 0.1, 2.0
    return pruning


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_easy_images_are_skipped_at_random_and_the_others_weigh_more(pruning: Pruning) -> None:
    order, weights = pruning.choose(2, seeded(0))
    assert set(range(EASY, EASY + HARD)) < set(order.tolist())
    used = order[order < EASY]
    assert len(used) == pytest.approx(EASY / 4, rel=0.2)
    assert len(set(order.tolist())) == len(order)
    assert set(weights[:EASY].tolist()) == {4.0}
    assert set(weights[EASY:].tolist()) == {1.0}


def test_every_image_is_used_in_some_epoch(pruning: Pruning) -> None:
    used = [set(pruning.choose(2, seeded(seed))[0].tolist()) for seed in range(40)]
    assert set.union(*used) == set(range(EASY + HARD))


@pytest.mark.parametrize("epoch", [1, 9, 10])
def test_the_first_and_the_last_epochs_use_all_images(epoch: int, pruning: Pruning) -> None:
    order, weights = pruning.choose(epoch, seeded(0))
    assert sorted(order.tolist()) == list(range(EASY + HARD))
    assert order.tolist() != sorted(order.tolist())
    assert set(weights.tolist()) == {1.0}


def test_an_image_that_was_not_used_yet_is_not_pruned(tiny_recipe: Recipe) -> None:
    pruning = Pruning(replace(tiny_recipe, epochs=10, prune_ratio=0.75), EASY + HARD, CPU)
    assert len(pruning.choose(2, seeded(0))[0]) == EASY + HARD
    pruning.losses[:5] = 0.1
    assert len(pruning.choose(2, seeded(0))[0]) >= EASY + HARD - 5


def test_without_a_prune_ratio_all_images_are_used(tiny_recipe: Recipe) -> None:
    assert tiny_recipe.prune_ratio == 0
    pruning = Pruning(tiny_recipe, EASY + HARD, CPU)
    pruning.losses[:EASY] = 0.0
    assert len(pruning.choose(3, seeded(0))[0]) == EASY + HARD


def test_equal_seeds_give_equal_orders(pruning: Pruning) -> None:
    orders = [pruning.choose(3, seeded(seed))[0] for seed in (5, 5, 6)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
