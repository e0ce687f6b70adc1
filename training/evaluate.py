"""Evaluates a checkpoint on the test set, with its costs: `python -m training.evaluate [CHECKPOINT]`."""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from classifier.checkpoint import describe
from classifier.classifier import Classifier
from classifier.networks import CLASSES
from classifier.pixels import SHAPE
from classifier.runtime import PRECISIONS
from classifier.weights import costs_of
from training import data
from training.command import CHECKPOINT, Parser, TrainingError, add_data_dir, add_device, add_report, execute
from training.metrics import Evaluation, all_logits, auroc, energies, evaluate
from training.photos import Photos, answerable, choose, load, split
from training.progress import print_line

LATENCY_BATCHES = (1, 64)  # images
LATENCY_SECONDS = 0.5  # for which each batch size is measured


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        default=CHECKPOINT,
        metavar="CHECKPOINT",
        help=f"file to evaluate (default: {CHECKPOINT})",
    )
    add_device(parser)
    add_data_dir(parser)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="on a CPU, as SERVICE_PRECISION (default: auto)"
    )
    add_report(parser)
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="DIR",
        help="folder of photos to evaluate on, as of training.run (default: the test set of Fashion-MNIST)",
    )
    options = parser.parse_args(arguments)
    return execute(lambda: run_evaluation(options))


def run_evaluation(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the metrics and the costs of a checkpoint; returns them as the command's last line has them."""
    classifier = Classifier.load(options.checkpoint, options.device, precision=options.precision)
    checkpoint = classifier.checkpoint
    if not options.photos and classifier.shape != SHAPE:
        raise TrainingError(f"{options.checkpoint.name} is a network for photos: name their folder with --photos DIR.")
    console = Console()
    test_images, others = (
        load_photos(options.photos, classifier, console) if options.photos else (data.load_test(options.data_dir), None)
    )
    print_line(console, describe(checkpoint))
    if checkpoint.assumption:
        print_line(console, checkpoint.assumption)
    evaluation = evaluate(classifier, test_images)
    print_table(console, evaluation, "Photos" if options.photos else "Test set")
    strangers = {}
    if others:
        unanswerable = energies(classifier, all_logits(classifier, others))
        strangers = {"auroc_familiarity": auroc(evaluation.energy, unanswerable)}
        print_line(
            console,
            f"{len(others)} photos show none of the ten classes; the area under the receiver operating characteristic "
            f"of familiarity is {strangers['auroc_familiarity']:.3f}.",
        )
    costs = {
        "parameters": checkpoint.parameters,
        "multiply_adds": costs_of(classifier.network)[0],
        **{f"latency_ms_{size}": round(latency(classifier, test_images[:size]), 3) for size in LATENCY_BATCHES},
    }
    runtime = {
        "device": classifier.device.type,
        "runtime": classifier.runtime,
        "runtime_precision": classifier.precision,
    }
    print_line(
        console,
        "{parameters:,} parameters, {multiply_adds:,} multiply-adds an image; latency on {device}, {runtime} in "
        "{runtime_precision}: {latency_ms_1} ms for one image, {latency_ms_64} ms for 64".format(**runtime, **costs),
    )
    if options.report:
        from training import report  # matplotlib takes a second to import
        from training.corruptions import evaluate_corruptions  # torchvision takes another

        corrupted = evaluate_corruptions(classifier, test_images)
        report.write(options.report, checkpoint, evaluation, test_images, test_images, corrupted)
    return {
        "checkpoint": str(options.checkpoint),
        "model": checkpoint.model,
        **runtime,
        **costs,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "test_accuracy_95": evaluation.accuracy_interval,
        "ece": evaluation.ece,
        "nll": evaluation.nll,
        "brier": evaluation.brier,
        "prediction_sets": evaluation.prediction_sets,
        "unfamiliar": evaluation.unfamiliar if evaluation.prediction_sets else None,
        **strangers,
        **evaluation.per_class,
    }


def load_photos(folder: Path, classifier: Classifier, console: Console) -> tuple[Photos, Photos | None]:
    """The photos of which a class is right, and those of which none is, None if there are none of these.

    If the network was trained on these photos, only those that it did not learn from and that fitted nothing.
    """
    photos = load(folder, classifier.shape)
    training = classifier.checkpoint.training
    settings, seed = training.get("settings"), training.get("seed")
    if photos.digest == training.get("photos") and isinstance(settings, dict) and isinstance(seed, int):
        _, _, photos = split(photos, settings["validation_photos"], settings["test_photos"], seed)
        print_line(console, f"The network was trained on these photos, except {len(photos)} for this test.")
    others = choose(photos, (~photos.marks.any(dim=1)).nonzero().flatten())
    return answerable(photos), others if len(others) else None


def print_table(console: Console, evaluation: Evaluation, title: str = "Test set") -> None:
    """Prints precision, recall and F1 of each class, then lines with loss, accuracy, calibration error and sets."""
    table = Table("class", title=title)
    for name in ("precision", "recall", "F1"):
        table.add_column(name, justify="right")
    scores = evaluation.per_class.values()
    for name in CLASSES:
        table.add_row(name, *(f"{score[name]:.1%}" for score in scores))
    console.print(table)
    low, high = evaluation.accuracy_interval
    print_line(
        console,
        f"{title}: loss {evaluation.loss:.4f}, accuracy {evaluation.accuracy:.2%} "
        f"({evaluation.correct_count:,} of {len(evaluation.correct):,}; 95% interval {low:.2%} to {high:.2%}), "
        f"expected calibration error {evaluation.ece:.2%}",
    )
    for coverage, found in evaluation.prediction_sets.items():
        print_line(
            console,
            f"Prediction sets for {float(coverage):.0%}: {found['coverage']:.2%} hold a right class; "
            f"{found['size']:.2f} classes on average",
        )
    if evaluation.prediction_sets:
        print_line(console, f"{evaluation.unfamiliar:.2%} do not look like any of the ten classes")


def latency(classifier: Classifier, images: data.Images) -> float:
    """Median time in milliseconds to predict all the images in one batch."""
    pixels = images.array()
    times: list[float] = []
    while sum(times) < LATENCY_SECONDS:
        start = time.perf_counter()
        classifier.predict(pixels)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


if __name__ == "__main__":
    sys.exit(main())
