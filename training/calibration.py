"""Temperature scaling (Guo et al. 2017): fits the temperature that divides the logits, on validation images."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from classifier.checkpoint import TEMPERATURES, Checkpoint
from classifier.classifier import Classifier
from training.data import Images
from training.metrics import all_logits

MAX_ITERATIONS = 100  # of L-BFGS, which needs about ten for one parameter


def calibrate(checkpoint: Checkpoint, validation_images: Images) -> Checkpoint:
    """The checkpoint with a temperature fitted on images that it was not trained on."""
    logits = all_logits(Classifier(checkpoint, validation_images.pixels.device), validation_images)
    return replace(checkpoint, calibration={"temperature": fit_temperature(logits, validation_images.labels)})


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T), within TEMPERATURES.

    `logits` is float32 [N,10], `labels` int64 [N]. The search is over log T, so that T stays positive.
    """
    logits, labels = logits.cpu().double(), labels.cpu()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        cross_entropy = functional.cross_entropy(logits / log_temperature.exp(), labels)
        cross_entropy.backward()  # type: ignore[no-untyped-call]
        return cross_entropy

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    lowest, highest = TEMPERATURES
    return float(log_temperature.detach().exp().clamp(lowest, highest))
