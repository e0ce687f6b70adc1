"""What a checkpoint is worth on the test set: `python -m training.evaluate [CHECKPOINT]`."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from classifier.checkpoint import describe
from classifier.classifier import Classifier
from classifier.networks import CLASSES, SIDE
from training import data
from training.command import CHECKPOINT, Parser, add_device_and_data, execute

BATCH_SIZE = 1_000  # images
CALIBRATION_BINS = 15
NORMAL_95 = 1.959964  # standard deviations to either side hold 95 % of a normal distribution
LATENCY_BATCHES = (1, 64)  # images
LATENCY_SECONDS = 0.5  # that each is measured for


@dataclass(frozen=True)
class Evaluation:
    """A classifier's worth on N labelled images. Losses are in nats, shares and errors fractions of 1."""

    loss: float  # cross-entropy of the logits as they are, the loss that training states
    confusion: Tensor  # int64 [10,10]: true class by predicted class
    precision: list[float]  # of each class: of the images called so, the share that are
    recall: list[float]  # of each class: of its images, the share that are called so
    f1: list[float]  # of each class: the harmonic mean of the two
    ece: float  # expected calibration error of the confidence
    nll: float  # cross-entropy of the calibrated probabilities
    brier: float  # squared error of the probabilities, summed over the classes
    predicted: Tensor  # int64 [N]
    confidence: Tensor  # float64 [N]
    right: Tensor  # bool [N]

    @property
    def total(self) -> int:
        return len(self.right)

    @property
    def correct(self) -> int:
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """In which the accuracy on ever more such images lies, with 95 % confidence."""
        return wilson_interval(self.correct, self.total)


def evaluate(classifier: Classifier, images: data.Images) -> Evaluation:
    """Judges the classifier by the very answers it serves."""
    from torchmetrics.functional import classification  # takes a second to import

    logits = all_logits(classifier, images)
    probabilities = torch.tensor([classifier.probabilities(row) for row in logits.tolist()], dtype=torch.float64)
    labels = images.labels.cpu()
    confidence, predicted = probabilities.max(dim=1)
    right = predicted == labels
    classes = len(CLASSES)
    return Evaluation(
        loss=functional.cross_entropy(logits, labels).item(),
        confusion=classification.multiclass_confusion_matrix(predicted, labels, classes),
        precision=classification.multiclass_precision(predicted, labels, classes, "none").tolist(),
        recall=classification.multiclass_recall(predicted, labels, classes, "none").tolist(),
        f1=classification.multiclass_f1_score(predicted, labels, classes, "none").tolist(),
        ece=expected_calibration_error(confidence, right),
        nll=functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
        brier=(probabilities - functional.one_hot(labels, len(CLASSES))).square().sum(dim=1).mean().item(),
        predicted=predicted,
        confidence=confidence,
        right=right,
    )


def all_logits(classifier: Classifier, images: data.Images) -> Tensor:
    """What the classifier's network says of N images, float32 [N,10], on the CPU."""
    return torch.cat([torch.from_numpy(classifier.logits(batch.array())) for batch in images.batches(BATCH_SIZE)])


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share of which `correct` of `total` were seen (Wilson 1927)."""
    share, z2 = correct / total, NORMAL_95**2
    centre = share + z2 / (2 * total)
    spread = NORMAL_95 * sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return (centre - spread) / (1 + z2 / total), (centre + spread) / (1 + z2 / total)


def reliability(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> Iterator[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of images in each of `bins` bins of equal mass, by rising confidence.

    `confidence` float [N] in 0…1, `right` bool [N].
    """
    for members in confidence.argsort(stable=True).tensor_split(bins):
        if len(members):
            yield confidence[members].mean().item(), right[members].double().mean().item(), len(members)


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """The mean gap between confidence and accuracy over `bins` bins of equal mass (Nguyen & O'Connor 2015)."""
    return sum(abs(sure - share) * n for sure, share, n in reliability(confidence, right, bins)) / len(right)


def multiply_adds(classifier: Classifier) -> int:
    """Multiply-adds of one answer, as PyTorch counts them: convolutions and matrix products."""
    blank = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        classifier.network(blank.to(classifier.device))
    return int(counter.get_total_flops()) // 2


def latency(classifier: Classifier, images: data.Images) -> float:
    """Milliseconds that the answers to all these images take, asked at once: the median of many times."""
    pixels = images.array()
    times: list[float] = []
    while sum(times) < LATENCY_SECONDS:
        begin = time.perf_counter()
        classifier.predict(pixels)
        times.append(time.perf_counter() - begin)
    return 1e3 * median(times)


def print_table(console: Console, evaluation: Evaluation) -> None:
    table = Table("class", title="Test set")
    for name in ("precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for name, *figures in zip(CLASSES, evaluation.precision, evaluation.recall, evaluation.f1, strict=True):
        table.add_row(name, *(f"{figure:.1%}" for figure in figures))
    console.print(table)
    low, high = evaluation.interval
    console.print(
        f"Test loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
        f"({evaluation.correct:,} of {evaluation.total:,}; 95% interval {low:.2%} to {high:.2%}), "
        f"calibration error {evaluation.ece:.2%}",
        highlight=False,
        soft_wrap=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT, metavar="CHECKPOINT")
    add_device_and_data(parser)
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html and its figures there")
    options = parser.parse_args(arguments)

    def story() -> dict[str, Any]:
        classifier = Classifier.load(options.checkpoint, options.device)
        _, test = data.load(options.data_dir)
        console = Console()
        console.print(describe(classifier.checkpoint), highlight=False, soft_wrap=True)
        evaluation = evaluate(classifier, test)
        print_table(console, evaluation)
        times = {size: latency(classifier, test[:size]) for size in LATENCY_BATCHES}
        facts = {
            "checkpoint": str(options.checkpoint),
            "model": classifier.checkpoint.model,
            "device": classifier.device.type,
            "parameters": classifier.checkpoint.parameters,
            "multiply_adds": multiply_adds(classifier),
            **{f"latency_ms_{size}": round(milliseconds, 3) for size, milliseconds in times.items()},
        }
        console.print(
            "{parameters:,} parameters, {multiply_adds:,} multiply-adds an image; on {device} "
            "{latency_ms_1} ms for one image, {latency_ms_64} ms for 64".format(**facts),
            highlight=False,
            soft_wrap=True,
        )
        if options.report:
            from training import report  # matplotlib takes a second to import

            report.write(options.report, classifier.checkpoint, evaluation, test, sample=test)
        return facts | {
            "test_loss": evaluation.loss,
            "test_accuracy": evaluation.accuracy,
            "test_accuracy_95": evaluation.interval,
            "ece": evaluation.ece,
            "nll": evaluation.nll,
            "brier": evaluation.brier,
            "precision": dict(zip(CLASSES, evaluation.precision, strict=True)),
            "recall": dict(zip(CLASSES, evaluation.recall, strict=True)),
            "f1": dict(zip(CLASSES, evaluation.f1, strict=True)),
        }

    return execute(story)


if __name__ == "__main__":
    sys.exit(main())
