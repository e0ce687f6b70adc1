"""Calibration on validation images: temperature scaling (Guo et al. 2017), conformal prediction, familiarity."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from classifier.checkpoint import TEMPERATURES, Checkpoint
from classifier.classifier import Classifier
from classifier.uncertainty import COVERAGES, Calibration, as_dict
from training.data import Images
from training.metrics import all_logits

FAMILIAR_FRACTION = 0.01  # of the validation images are taken for unfamiliar
MIDDLE_SCALES = 4.0  # between a picture that is just familiar and one of median energy: its familiarity is 0.98
LEAST_SCALE = 1e-3  # of energies that are all alike
MAX_ITERATIONS = 100  # of L-BFGS, which needs about ten for one parameter


def calibrate(checkpoint: Checkpoint, validation_images: Images) -> Checkpoint:
    """The checkpoint with a temperature and thresholds fitted on images that it was not trained on."""
    classifier = Classifier(checkpoint, validation_images.pixels.device)
    fitted = fit(all_logits(classifier, validation_images), validation_images)
    return replace(checkpoint, calibration=as_dict(fitted))


def fit(logits: Tensor, images: Images) -> Calibration:
    """Fits the temperature, then the thresholds of the prediction sets and of familiarity; `logits` is float32 [N,10].

    A threshold is a quantile of the probability of the right class, with the correction of split conformal prediction
    for few images (Vovk et al. 2005). A picture is familiar if its energy is above that of FAMILIAR_FRACTION of the
    images.
    """
    temperature = fit_temperature(logits, images)
    images = images.to(torch.device("cpu"))
    scaled = logits.double() / temperature
    right_probability = scaled.softmax(dim=1).masked_fill(~images.marks, 0).amax(dim=1)
    energies = scaled.logsumexp(dim=1)
    lowest, middle = quantile(energies, FAMILIAR_FRACTION), quantile(energies, 0.5)
    return Calibration(
        temperature,
        tuple(conformal_threshold(right_probability, float(coverage)) for coverage in COVERAGES),
        lowest,
        max(LEAST_SCALE, (middle - lowest) / MIDDLE_SCALES),
    )


def conformal_threshold(right_probability: Tensor, coverage: float) -> float:
    """The probability that at least this fraction of the right classes have, with the correction for N images."""
    ordered = right_probability.sort().values
    rank = math.floor((len(ordered) + 1) * (1 - coverage))
    return float(ordered[rank - 1]) if rank else 0.0


def quantile(values: Tensor, fraction: float) -> float:
    return float(values.sort().values[int(fraction * len(values))])


def fit_temperature(logits: Tensor, images: Images) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T) on these images, within TEMPERATURES.

    Of a photo with several right classes, the most probable one counts. `logits` is float32 [N,10]. The search is over
    log T, so that T stays positive.
    """
    logits, images = logits.cpu().double(), images.to(torch.device("cpu"))
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_probabilities = (logits / log_temperature.exp()).log_softmax(dim=1)
        mean = -log_probabilities.masked_fill(~images.marks, -torch.inf).amax(dim=1).mean()
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    lowest, highest = TEMPERATURES
    return float(log_temperature.detach().exp().clamp(lowest, highest))
