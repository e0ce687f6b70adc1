"""Evaluation metrics: accuracy with its Wilson interval, confusion matrix, precision, recall, F1, Brier score, expected
calibration error and its reliability bins."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from classifier.classifier import Classifier
from classifier.networks import CLASSES
from classifier.uncertainty import COVERAGES
from training.data import Images

BATCH_SIZE = 1_000  # images
CALIBRATION_BINS = 15
Z_95 = 1.959964  # standard deviations on either side of the mean that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Evaluation:
    """A classifier's predictions for N labelled images, and their metrics. Losses are in nats, the others fractions."""

    probabilities: Tensor  # float64 [N,10], calibrated
    confusion: Tensor  # int64 [10,10]: true class (row) by predicted class (column)
    loss: float  # cross-entropy of the logits before calibration, the loss that training reports
    nll: float  # cross-entropy of the calibrated probabilities
    ece: float  # expected calibration error of the confidence
    brier: float  # squared error of the probabilities, summed over the classes
    predicted: Tensor  # int64 [N]
    confidence: Tensor  # float64 [N]
    correct: Tensor  # bool [N]
    energy: Tensor  # float64 [N], low for pictures that are like none of the training images
    unfamiliar: float  # fraction of the images that do not look like any of the ten classes; nan without thresholds
    prediction_sets: dict[str, dict[str, float]]  # by nominal coverage: "coverage" and mean "size"; {} without them

    @property
    def accuracy(self) -> float:
        return self.correct_count / len(self.correct)

    @property
    def correct_count(self) -> int:
        return int(self.correct.sum())

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy."""
        return wilson_interval(self.correct_count, len(self.correct))

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 under "precision", "recall" and "f1", each by class name."""
        scores = {score.__name__: score(self.confusion).tolist() for score in (precision, recall, f1)}
        return {name: dict(zip(CLASSES, values, strict=True)) for name, values in scores.items()}


def evaluate(classifier: Classifier, images: Images) -> Evaluation:
    """Evaluates the same calibrated probabilities that the service returns."""
    logits = all_logits(classifier, images)
    probabilities = torch.tensor([classifier.probabilities(row) for row in logits.tolist()], dtype=torch.float64)
    images = images.to(torch.device("cpu"))
    confidence, predicted = probabilities.max(dim=1)
    correct = images.is_right(predicted)
    labels = torch.where(correct, predicted, images.labels)
    fitted = classifier.calibration
    energy = energies(classifier, logits)
    sets = {
        coverage: prediction_set_metrics(probabilities, images.marks, threshold)
        for coverage, threshold in zip(COVERAGES, fitted.thresholds, strict=bool(fitted.thresholds))
    }
    return Evaluation(
        probabilities=probabilities,
        confusion=confusion_matrix(labels, predicted),
        loss=images.losses(logits).mean().item(),
        nll=images.losses(probabilities.clamp_min(1e-12).log()).mean().item(),
        ece=expected_calibration_error(confidence, correct),
        brier=(probabilities - functional.one_hot(labels, len(CLASSES))).square().sum(dim=1).mean().item(),
        predicted=predicted,
        confidence=confidence,
        correct=correct,
        energy=energy,
        unfamiliar=(energy < fitted.energy).double().mean().item() if fitted.energy_scale else float("nan"),
        prediction_sets=sets,
    )


def set_size_by_coverage(evaluation: Evaluation, right: Tensor) -> tuple[list[float], list[float]]:
    """The coverage and the mean size of prediction sets, for 100 thresholds; `right` is bool [N,10].

    The thresholds are quantiles of the probability of the right class, so the coverages are spread evenly.
    """
    probability = evaluation.probabilities.masked_fill(~right, 0).amax(dim=1)
    thresholds = probability.quantile(torch.linspace(0.001, 0.3, 100, dtype=probability.dtype)).tolist()
    found = [prediction_set_metrics(evaluation.probabilities, right, threshold) for threshold in thresholds]
    return [each["coverage"] for each in found], [each["size"] for each in found]


def prediction_set_metrics(probabilities: Tensor, right: Tensor, threshold: float) -> dict[str, float]:
    """How often the prediction set holds a right class, and its mean number of classes.

    `probabilities` is float64 [N,10], `right` bool [N,10].
    """
    members = probabilities >= threshold
    members |= functional.one_hot(probabilities.argmax(dim=1), len(CLASSES)).bool() & ~members.any(dim=1, keepdim=True)
    return {
        "coverage": (members & right).any(dim=1).double().mean().item(),
        "size": members.sum(dim=1).double().mean().item(),
    }


def auroc(higher: Tensor, lower: Tensor) -> float:
    """The probability that a value of `higher` is above one of `lower`, ties counted half: the area under the receiver
    operating characteristic. Both are float [N]."""
    ordered = lower.sort().values
    below = torch.searchsorted(ordered, higher) + torch.searchsorted(ordered, higher, right=True)
    return below.double().mean().item() / 2 / len(lower)


def energies(classifier: Classifier, logits: Tensor) -> Tensor:
    """The energy of each image, float64 [N], of its logits before calibration, float32 [N,10]."""
    return (logits.double() / classifier.calibration.temperature).logsumexp(dim=1)


def all_logits(classifier: Classifier, images: Images) -> Tensor:
    """Logits of N images before calibration, float32 [N,10], on the CPU."""
    return torch.cat([torch.from_numpy(classifier.logits(batch.array())) for batch in images.batches(BATCH_SIZE)])


def confusion_matrix(labels: Tensor, predicted: Tensor) -> Tensor:
    """Number of images, int64 [10,10], by true class (row) and predicted class (column). Both inputs are int64 [N]."""
    classes = len(CLASSES)
    return (classes * labels + predicted).bincount(minlength=classes**2).view(classes, classes)


def precision(confusion: Tensor) -> Tensor:
    """Fraction of the images predicted as a class that belong to it, float32 [10]; 0 for a class never predicted."""
    return confusion.diagonal() / confusion.sum(dim=0).clamp_min(1)


def recall(confusion: Tensor) -> Tensor:
    """Fraction of the images of a class that are predicted as it, float32 [10]; 0 for a class without images."""
    return confusion.diagonal() / confusion.sum(dim=1).clamp_min(1)


def f1(confusion: Tensor) -> Tensor:
    """Harmonic mean of precision and recall, float32 [10]; 0 where both are 0."""
    return 2 * confusion.diagonal() / (confusion.sum(dim=0) + confusion.sum(dim=1)).clamp_min(1)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, `correct` of `total` (Wilson 1927)."""
    proportion, z2 = correct / total, Z_95**2
    centre = proportion + z2 / (2 * total)
    margin = Z_95 * sqrt(proportion * (1 - proportion) / total + z2 / (4 * total**2))
    return (centre - margin) / (1 + z2 / total), (centre + margin) / (1 + z2 / total)


def reliability(
    confidence: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS
) -> Iterator[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of images of each of `bins` bins of equal mass, in order of confidence.

    `confidence` is float [N] in 0…1, `correct` bool [N].
    """
    for members in confidence.argsort(stable=True).tensor_split(bins):
        if len(members):
            yield confidence[members].mean().item(), correct[members].double().mean().item(), len(members)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean |confidence - accuracy| over bins of equal mass (Nguyen & O'Connor 2015)."""
    return sum(abs(mean - accuracy) * n for mean, accuracy, n in reliability(confidence, correct, bins)) / len(correct)
