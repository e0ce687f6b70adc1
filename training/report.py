"""The report of a checkpoint: metrics, recipe and figures on one page, report.html, and the figures as PNG files."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from torch import Tensor

from classifier.checkpoint import Checkpoint, describe
from classifier.networks import CLASSES
from training.command import TrainingError
from training.data import Images
from training.metrics import CALIBRATION_BINS, Evaluation, reliability, set_size_by_coverage

DPI = 120
COLUMNS = 10  # of a grid of images
SAMPLES, MISTAKES = 20, 40  # images
PAGE = "report.html.jinja"
MAX_EPOCHS = 10_000  # of a learning curve
MAX_FACTS = 60  # of a table; a recipe has 25
SHORTENED = Repr()  # the metadata of a checkpoint may be anything
SHORTENED.maxdict = SHORTENED.maxlist = SHORTENED.maxtuple = 12
SHORTENED.maxlevel = 3
SHORTENED.maxstring = SHORTENED.maxother = 200  # characters
CURVES = ("training_loss", "validation_loss", "validation_accuracy")


def write(
    folder: Path,
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    test: Images,
    sample: Images,
    corrupted: Mapping[str, Evaluation],
) -> None:
    """Writes report.html and its figures. `evaluation` is that of the images `test`; the first of `sample` are shown.

    `corrupted` has the evaluations of corrupted images, by corruption.
    The page needs no other file and no network. Raises TrainingError.
    """
    training = checkpoint.training
    figures = {
        "samples": sample_grid(sample[:SAMPLES]),
        "confusion": confusion_figure(evaluation.confusion),
        "reliability": reliability_diagram(evaluation),
        "mistakes": mistake_grid(evaluation, test),
        "familiarity": familiarity_histogram(evaluation, checkpoint.calibration.get("energy")),
        "sets": set_size_figure(evaluation, test.marks),
    }
    if history := readable_history(training.get("history")):
        figures["curves"] = learning_curves(history)
    pictures = {name: png(figure) for name, figure in figures.items()}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template(PAGE).render(
        checkpoint=checkpoint,
        title=describe(checkpoint),
        facts=table({name: value for name, value in training.items() if name not in ("settings", "history")}),
        settings=table(training.get("settings")),
        evaluation=evaluation,
        classes=CLASSES,
        corrupted=corrupted,
        bins=CALIBRATION_BINS,
        pictures={name: base64.b64encode(content).decode() for name, content in pictures.items()},
    )  # fmt: skip
    files = {"report.html": page.encode()} | {f"{name}.png": content for name, content in pictures.items()}
    write_files(folder, files)


def readable_history(history: Any) -> list[dict[str, float]]:
    """The history if every epoch has the numbers of the learning curves, else nothing."""
    if not isinstance(history, list) or len(history) > MAX_EPOCHS:
        return []
    if not all(isinstance(epoch, dict) and all(is_finite(epoch.get(name)) for name in CURVES) for epoch in history):
        return []
    return history


def is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def table(facts: Any) -> dict[str, list[str]]:
    """Metadata of a checkpoint as names and lines of text, shortened."""
    if not isinstance(facts, dict):
        return {}
    rows: dict[str, list[str]] = {}
    for name, value in list(facts.items())[:MAX_FACTS]:
        parts = list(value.items())[:MAX_FACTS] if isinstance(value, dict) else None
        rows[short(name)] = [short(value)] if parts is None else [f"{short(key)} {short(part)}" for key, part in parts]
    return rows


def short(value: Any) -> str:
    """The value in one line of text."""
    text = value if isinstance(value, str) and len(value) <= SHORTENED.maxstring else SHORTENED.repr(value)
    return text if len(text) <= 4 * SHORTENED.maxstring else f"{text[: 4 * SHORTENED.maxstring]}…"


def write_samples(folder: Path, sample: Images) -> None:
    """Writes only samples.png, before training, as the tutorial shows a batch. Raises TrainingError."""
    write_files(folder, {"samples.png": png(sample_grid(sample[:SAMPLES]))})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise TrainingError(f"the report could not be written to {folder}: {error.strerror}.") from error


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def sample_grid(images: Images) -> Figure:
    """The images in a grid with their right classes."""
    return grid(images.pixels, [truth(marks) for marks in images.marks])


def truth(marks: Tensor) -> str:
    """The names of the right classes, marked in bool [10]; a photo may have several, or none."""
    return " or ".join(CLASSES[index] for index in marks.nonzero().flatten().tolist()) or "none of the ten"


def mistake_grid(evaluation: Evaluation, images: Images) -> Figure:
    """The mistakes of highest confidence in a grid, each with its predicted class and its label."""
    wrong = (~evaluation.correct).nonzero().flatten()
    order = wrong[evaluation.confidence[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    titles = [
        f"{CLASSES[evaluation.predicted[i]]} {evaluation.confidence[i]:.0%}\nlabel {truth(images.marks[i])}"
        for i in order
    ]
    return grid(images.pixels[order.to(images.pixels.device)], titles)


def grid(pixels: Tensor, titles: Sequence[str]) -> Figure:
    """Images, uint8 [N,1,28,28] or [N,3,160,160], each under its title."""
    rows = max(1, -(-len(pixels) // COLUMNS))
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(1.2 * COLUMNS, (1.2 + 0.2 * lines) * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.axis("off")
        if place < len(pixels):
            axes.imshow(pixels[place].permute(1, 2, 0).cpu().numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(titles[place], fontsize=8)
    return figure


def reliability_diagram(evaluation: Evaluation) -> Figure:
    """Accuracy by confidence in bins of equal mass; perfect calibration is the diagonal."""
    confidences, accuracies, _ = zip(*reliability(evaluation.confidence, evaluation.correct), strict=True)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect calibration")
    axes.plot(confidences, accuracies, marker="o", label="this classifier")
    axes.set(
        title="Reliability diagram of the test set", xlabel="mean confidence of a bin", ylabel="accuracy of the bin"
    )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def familiarity_histogram(evaluation: Evaluation, threshold: float | None) -> Figure:
    """How many images have which energy; those below the threshold do not look like any of the ten classes."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(evaluation.energy.numpy(), bins=60, color="C0")
    if threshold is not None:
        axes.axvline(threshold, color="grey", linestyle=":", label="familiarity 0.5")
        axes.legend()
    axes.set(title="Familiarity of the test set", xlabel="energy (nats)", ylabel="images")
    return figure


def set_size_figure(evaluation: Evaluation, right: Tensor) -> Figure:
    """The mean number of classes in a prediction set, by how often the sets hold a right class; `right` is bool
    [N,10]."""
    coverages, sizes = set_size_by_coverage(evaluation, right.cpu())
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([100 * coverage for coverage in coverages], sizes, label="any threshold")
    for nominal, found in evaluation.prediction_sets.items():
        axes.plot(100 * found["coverage"], found["size"], marker="o", linestyle="", label=f"for {float(nominal):.0%}")
    axes.set(title="Prediction sets of the test set", xlabel="coverage (%)", ylabel="classes on average")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy after each epoch; `history` is that of loop.RunState."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [epoch["training_loss"] for epoch in history], marker=".", label="training")
    loss.plot(epochs, [epoch["validation_loss"] for epoch in history], marker=".", label="validation")
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    loss.legend()
    accuracy.plot(epochs, [100 * epoch["validation_accuracy"] for epoch in history], marker=".", color="C1")
    accuracy.set(title="Validation accuracy", xlabel="epoch", ylabel="accuracy (%)")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def confusion_figure(matrix: Tensor) -> Figure:
    """The confusion matrix, int64 [10,10], coloured by the fraction of each row, which is a true class."""
    fractions = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            if count := int(matrix[row, column]):
                colour = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(title="Confusion matrix of the test set", xlabel="predicted", ylabel="true")
    return figure
