"""The optimiser of a recipe and the course of its learning rate."""

from collections.abc import Callable

import torch
from torch import nn

from training.recipes import Recipe


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def schedule(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """The learning rate at a step as a share of the recipe's: constant, or a triangle that ends at 0."""
    if recipe.schedule == "constant":
        return lambda step: 1.0
    peak = max(1, round(recipe.warm_up * total_steps))
    return lambda step: min((step + 1) / peak, (total_steps - step) / (total_steps - peak + 1))
