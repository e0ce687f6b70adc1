"""The optimizer of a recipe (SGD, Muon or AdamW) and its learning rate schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.recipes import Recipe

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. 2024, for the fastest convergence near 0
NEWTON_SCHULZ_STEPS = 3


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): SGD with Nesterov momentum; updates of convolution filters are orthogonalised.

    An orthogonal update changes the filters equally in all directions. Batch normalisation follows, so the scale of
    the filters does not matter; their norm is fixed at that of an orthogonal matrix. torch.optim.Muon accepts only
    matrices.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "orthogonal": False, "weight_decay": 0.0})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                momentum = self.state[parameter]["momentum"].mul_(group["momentum"]).add_(gradient)
                update = gradient.add_(momentum, alpha=group["momentum"])
                if group["orthogonal"]:
                    update = orthogonalise(update.flatten(1)).view_as(update)
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                parameter.sub_(update.mul_(group["lr"]))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximates the orthogonal matrix closest to `matrix`, float32 [M,N], by the Newton-Schulz iteration.

    Computes in bfloat16 on a GPU that supports it. In float32 each step multiplies only the square matrix of x @ x.mT,
    and x once at the end: the same polynomial of x in a third of the time, for filters have more columns than rows.
    """
    a, b, c = NEWTON_SCHULZ
    tall = len(matrix) > matrix.shape[1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    if x.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False):
        x = x.bfloat16()
        for _ in range(NEWTON_SCHULZ_STEPS):
            square = x @ x.mT
            x = a * x + (b * square + c * square @ square) @ x
        return x.mT if tall else x
    square = x @ x.mT
    product = torch.eye(len(x), device=x.device)
    for _ in range(NEWTON_SCHULZ_STEPS):
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        square = factor @ square @ factor
    x = product @ x
    return x.mT if tall else x


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer; each parameter group has its peak learning rate under "peak"."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in learned if parameter.ndim > 1]
    filters = [weight for weight in weights if weight.ndim == 4 and weight.shape[1] > 1]
    others = [parameter for parameter in learned if parameter.ndim <= 1]
    groups = [
        {"params": weights, "peak": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": others, "peak": recipe.learning_rate, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "muon":
        groups[0]["params"] = [weight for weight in weights if not any(weight is each for each in filters)]
        groups = [group | {"momentum": recipe.momentum} for group in groups]
        orthogonal = {"orthogonal": True, "momentum": recipe.muon_momentum}
        return Muon([*groups, {"params": filters, "peak": recipe.muon_learning_rate, **orthogonal}])
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def set_learning_rate(recipe: Recipe, optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Sets the learning rates for a step at `progress`, the fraction of training that is done, 0…1."""
    for group in optimizer.param_groups:
        rate = group["peak"] * schedule(recipe, progress)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def schedule(recipe: Recipe, progress: float) -> float:
    """Learning rate schedule, as a fraction of the peak rate: constant, or triangular from 0 up to 1 and down to 0."""
    if recipe.schedule == "constant":
        return 1.0
    warmup = recipe.warmup_fraction
    return min(progress / warmup if warmup else 1.0, (1 - progress) / (1 - warmup))
