from dataclasses import replace
from itertools import pairwise

import pytest
from torch import Tensor

from training.classifier.model import ARCHITECTURES
from training.optimizer import make_optimizer, schedule
from training.recipes import FAST, TUTORIAL, Recipe


def test_the_triangle_rises_to_one_and_falls_to_nearly_nothing() -> None:
    share = schedule(replace(FAST, schedule="triangle", warm_up=0.2), 100)
    shares = [share(step) for step in range(100)]
    assert max(shares) == 1
    assert shares.index(1) == 19
    assert all(before < after for before, after in pairwise(shares[:20]))
    assert all(before > after for before, after in pairwise(shares[19:]))
    assert 0 < shares[-1] < 0.02


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warm_up", [0.0, 0.2, 0.9])
def test_even_the_shortest_schedule_trains_at_every_step(steps: int, warm_up: float) -> None:
    share = schedule(replace(FAST, schedule="triangle", warm_up=warm_up), steps)
    assert all(0 < share(step) <= 1 for step in range(steps))


def test_a_constant_schedule_is_constant() -> None:
    assert {schedule(TUTORIAL, 100)(step) for step in range(100)} == {1.0}


def test_weight_decay_spares_biases_and_normalisation(tiny_recipe: Recipe) -> None:
    network = ARCHITECTURES[tiny_recipe.architecture](**tiny_recipe.arguments)
    optimizer = make_optimizer(replace(tiny_recipe, weight_decay=0.1), network)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    parameters: dict[str, Tensor] = dict(network.named_parameters())
    assert len(decay) == len(parameters)
    assert all((decay[id(p)] > 0) == (p.ndim > 1) for p in parameters.values())
