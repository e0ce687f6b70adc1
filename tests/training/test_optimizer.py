from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from classifier.networks import ARCHITECTURES
from training.optimizer import (
    NEWTON_SCHULZ,
    NEWTON_SCHULZ_STEPS,
    make_optimizer,
    orthogonalise,
    schedule,
    set_learning_rate,
)
from training.recipes import FAST, TUTORIAL, Recipe


def test_the_triangular_schedule_rises_to_1_and_falls_to_0() -> None:
    recipe = replace(FAST, schedule="triangular", warmup_fraction=0.2)
    rates = [schedule(recipe, percent / 100) for percent in range(101)]
    assert max(rates) == rates[20] == pytest.approx(1)
    assert all(before < after for before, after in pairwise(rates[:21]))
    assert all(before > after for before, after in pairwise(rates[20:]))
    assert rates[0] == rates[-1] == 0


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.2, 0.9])
def test_the_learning_rate_of_every_step_is_positive(warmup_fraction: float) -> None:
    recipe = replace(FAST, schedule="triangular", warmup_fraction=warmup_fraction)
    assert all(0 < schedule(recipe, (step + 0.5) / steps) <= 1 for steps in (1, 2, 3) for step in range(steps))


def test_a_constant_schedule_is_constant() -> None:
    assert {schedule(TUTORIAL, percent / 100) for percent in range(101)} == {1.0}


def test_every_parameter_group_gets_the_scheduled_rate(tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, schedule="triangular", warmup_fraction=0.5, learning_rate=0.4)
    optimizer = make_optimizer(recipe, ARCHITECTURES[recipe.architecture](**recipe.arguments))
    for progress, rate in ((0.25, 0.2), (0.5, 0.4), (0.75, 0.2)):
        set_learning_rate(recipe, optimizer, progress)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])


@pytest.mark.parametrize("shape", [(8, 27), (27, 8)])
def test_an_orthogonalised_matrix_has_singular_values_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonalise(matrix)
    assert found.shape == matrix.shape
    values = torch.linalg.svdvals(found)
    assert 0.3 < values.min() <= values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.95


@pytest.mark.parametrize("shape", [(8, 27), (27, 8), (32, 162), (128, 1152)])
def test_the_iteration_on_the_square_matrix_is_that_on_the_matrix(shape: tuple[int, int]) -> None:
    a, b, c = NEWTON_SCHULZ
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = matrix.double() / matrix.norm()
    for _ in range(NEWTON_SCHULZ_STEPS):
        x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
    torch.testing.assert_close(orthogonalise(matrix), x.float(), atol=1e-5, rtol=0)


def test_muon_is_sgd_except_for_convolution_filters(tiny_recipe: Recipe) -> None:
    networks = [ARCHITECTURES[tiny_recipe.architecture](**tiny_recipe.arguments) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    recipes = [
        replace(tiny_recipe, optimizer="sgd", schedule="constant"),
        replace(tiny_recipe, optimizer="muon", schedule="constant"),
    ]
    for network, recipe in zip(networks, recipes, strict=True):
        optimizer = make_optimizer(recipe, network)
        for step in range(3):
            set_learning_rate(recipe, optimizer, 0.5)
            for number, parameter in enumerate(network.parameters()):
                generator = torch.Generator().manual_seed(100 * step + number)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for (name, sgd), muon in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        filters = sgd.ndim == 4 and sgd.shape[1] > 1
        assert torch.allclose(sgd, muon, atol=1e-6) != filters, name


def test_weight_decay_excludes_biases_and_normalisation(tiny_recipe: Recipe) -> None:
    network = ARCHITECTURES[tiny_recipe.architecture](**tiny_recipe.arguments)
    optimizer = make_optimizer(replace(tiny_recipe, weight_decay=0.1), network)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert decay.keys() == {id(parameter) for parameter in learned}  # without the whitening filters, which are fixed
    assert all((decay[id(parameter)] > 0) == (parameter.ndim > 1) for parameter in learned)
