"""Data pruning (InfoBatch, Qin et al. 2024): each epoch skips a random part of the images that are already learned.

Most of Fashion-MNIST is easy: after an epoch or two, three images in four have a gradient close to 0. An image whose
loss is below the mean is skipped with a probability of `prune_ratio`. Those that remain get a larger weight, so that
the expected gradient is unchanged. The first epoch and the last ones use all images.
"""

import torch
from torch import Tensor, nn

from training.recipes import Recipe

INITIAL_LOSS = 1e4  # nats, of an image that was not used yet: above every real loss, so it is not pruned


class Pruning(nn.Module):
    """The latest loss of each of `count` training images; a module, so that it has a `state_dict`."""

    losses: Tensor  # float32 [N], nats

    def __init__(self, recipe: Recipe, count: int, device: torch.device) -> None:
        super().__init__()
        self.ratio = recipe.prune_ratio
        self.last_epoch = recipe.prune_until * recipe.epochs
        self.register_buffer("losses", torch.full((count,), INITIAL_LOSS, device=device))

    def choose(self, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images of an epoch (from 1): their indices, int64 [M], in random order, and the weights of all N images,
        float32 [N]."""
        order = torch.randperm(len(self.losses), generator=generator).to(self.losses.device)
        weights = torch.ones_like(self.losses)
        if not self.ratio or epoch == 1 or epoch > self.last_epoch:
            return order, weights
        easy = self.losses < self.losses.mean()
        weights[easy] = 1 / (1 - self.ratio)
        chance = torch.rand(len(easy), generator=generator).to(easy.device)
        return order[~(easy & (chance < self.ratio))[order]], weights
