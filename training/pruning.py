"""Spares an epoch images that are learned already, without leaving any out for good (InfoBatch, Qin et al. 2024).

Most of Fashion-MNIST is easy: after an epoch or two the gradients of three images in four are close to nothing. Of the
images whose loss is below the mean, each is left out by chance, and those that stay count for those that do not, so
that the gradient is the same on average. The last epochs show all.
"""

import torch
from torch import Tensor, nn

from training.recipes import Recipe

UNSEEN = 1e4  # nats, the loss of an image that was not seen yet: more than any


class Pruning(nn.Module):
    """The loss of each of `count` training images when it was last seen; a module for its `state_dict`'s sake."""

    losses: Tensor

    def __init__(self, recipe: Recipe, count: int, device: torch.device) -> None:
        super().__init__()
        self.share = recipe.spared
        self.last = recipe.spared_until * recipe.epochs  # epochs
        self.register_buffer("losses", torch.full((count,), UNSEEN, device=device))

    def choose(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images of an epoch, counted from 1: their indices, int64 [M], in random order, and of all N images what
        each counts, float32 [N]."""
        order = torch.randperm(len(self.losses), generator=generator).to(self.losses.device)
        weights = torch.ones_like(self.losses)
        if not self.share or epoch == 1 or epoch > self.last:
            return order, weights
        easy = self.losses < self.losses.mean()
        weights[easy] = 1 / (1 - self.share)
        chance = torch.rand(len(easy), generator=generator).to(easy.device)
        return order[~(easy & (chance < self.share))[order]], weights
