"""What a checkpoint is worth on the test set: `python -m training.evaluate [CHECKPOINT]`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from training import data
from training.classifier.checkpoint import describe
from training.classifier.classifier import Classifier
from training.classifier.model import CLASSES, SIDE
from training.command import CHECKPOINT, Parser, add_device_and_data, execute

BATCH_SIZE = 1_000  # images
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """A classifier's worth on N labelled images. Losses are in nats, shares and errors fractions of 1."""

    loss: float  # cross-entropy of the logits as they are, the loss that training states
    confusion: Tensor  # int64 [10,10]: true class by predicted class
    ece: float  # expected calibration error of the confidence
    nll: float  # cross-entropy of the calibrated probabilities
    brier: float  # squared error of the probabilities, summed over the classes
    wrong: Tensor  # int64 [M]: indices of the mistakes
    predicted: Tensor  # int64 [N]
    confidence: Tensor  # float64 [N]

    @property
    def total(self) -> int:
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def class_accuracy(self) -> list[float]:
        return (self.confusion.diagonal() / self.confusion.sum(dim=1)).tolist()


def evaluate(classifier: Classifier, images: data.Images) -> Evaluation:
    """Judges the classifier by the very answers it serves."""
    logits = all_logits(classifier, images)
    probabilities = torch.tensor([classifier.probabilities(row) for row in logits.tolist()], dtype=torch.float64)
    labels = images.labels.cpu()
    confidence, predicted = probabilities.max(dim=1)
    right = predicted == labels
    return Evaluation(
        loss=functional.cross_entropy(logits, labels).item(),
        confusion=torch.bincount(labels * len(CLASSES) + predicted, minlength=len(CLASSES) ** 2).view(len(CLASSES), -1),
        ece=expected_calibration_error(confidence, right),
        nll=functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
        brier=(probabilities - functional.one_hot(labels, len(CLASSES))).square().sum(dim=1).mean().item(),
        wrong=(~right).nonzero().flatten(),
        predicted=predicted,
        confidence=confidence,
    )


def all_logits(classifier: Classifier, images: data.Images) -> Tensor:
    """What the classifier's network says of N images, float32 [N,10], on the CPU."""
    return torch.cat([torch.from_numpy(classifier.logits(batch.array())) for batch in images.batches(BATCH_SIZE)])


def expected_calibration_error(confidence: Tensor, right: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """The mean gap between confidence and accuracy over `bins` bins of equal mass (Nguyen & O'Connor 2015).

    `confidence` float [N] in 0…1, `right` bool [N].
    """
    order = confidence.argsort(stable=True)
    gaps = [
        (confidence[members].mean() - right[members].double().mean()).abs() * len(members)
        for members in order.tensor_split(bins)
        if len(members)
    ]
    return float(sum(gaps) / len(order))


def multiply_adds(classifier: Classifier) -> int:
    """Multiply-adds of one answer, as PyTorch counts them: convolutions and matrix products."""
    blank = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        classifier.network(blank.to(classifier.device))
    return int(counter.get_total_flops()) // 2


def print_table(console: Console, evaluation: Evaluation) -> None:
    table = Table(title="Test set")
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    for name, accuracy in zip(CLASSES, evaluation.class_accuracy, strict=True):
        table.add_row(name, f"{accuracy:.1%}")
    table.add_section()
    table.add_row("all", f"{evaluation.accuracy:.2%}")
    console.print(table)
    console.print(
        f"Test loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
        f"({evaluation.correct:,} of {evaluation.total:,}), calibration error {evaluation.ece:.2%}",
        highlight=False,
        soft_wrap=True,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT, metavar="CHECKPOINT")
    add_device_and_data(parser)
    parser.add_argument("--report", type=Path, metavar="DIR", help="write the confusion matrix there as a PNG")
    options = parser.parse_args(arguments)

    def story() -> dict[str, Any]:
        classifier = Classifier.load(options.checkpoint, options.device)
        _, test = data.load(options.data_dir)
        console = Console()
        console.print(describe(classifier.checkpoint), highlight=False, soft_wrap=True)
        evaluation = evaluate(classifier, test)
        print_table(console, evaluation)
        if options.report:
            from training import report  # matplotlib takes a second to import

            report.write(options.report, {"confusion.png": report.confusion(evaluation.confusion)})
        return {
            "checkpoint": str(options.checkpoint),
            "model": classifier.checkpoint.model,
            "device": classifier.device.type,
            "parameters": classifier.checkpoint.parameters,
            "multiply_adds": multiply_adds(classifier),
            "test_loss": evaluation.loss,
            "test_accuracy": evaluation.accuracy,
            "ece": evaluation.ece,
            "nll": evaluation.nll,
            "brier": evaluation.brier,
        }

    return execute(story)


if __name__ == "__main__":
    sys.exit(main())
