"""A run and its result as pictures: sample grid, learning curves, confusion matrix."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from training.classifier.model import CLASSES
from training.command import TrainingError

DPI = 120
COLUMNS = 10  # of the sample grid


def write(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Writes the figures as PNG files under the names given. Raises TrainingError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=DPI)
    except OSError as error:
        raise TrainingError(f"the report could not be written to {folder}: {error.strerror}.") from error


def samples(pixels: Tensor, labels: Tensor) -> Figure:
    """One batch, uint8 [N,1,28,28] with int64 [N], as a grid with its labels."""
    rows = -(-len(pixels) // COLUMNS)
    figure = Figure(figsize=(1.1 * COLUMNS, 1.35 * rows), layout="constrained")
    for place, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.axis("off")
        if place < len(pixels):
            axes.imshow(pixels[place, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(CLASSES[labels[place]], fontsize=9)
    return figure


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy after each epoch; `history` is as run.py keeps it."""
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [epoch["training_loss"] for epoch in history], marker=".", label="training")
    loss.plot(epochs, [epoch["validation_loss"] for epoch in history], marker=".", label="validation")
    loss.set(title="Loss", xlabel="epoch", ylabel="cross-entropy in nats")
    loss.legend()
    accuracy.plot(epochs, [100 * epoch["validation_accuracy"] for epoch in history], marker=".", color="C1")
    accuracy.set(title="Accuracy on the validation images", xlabel="epoch", ylabel="%")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def confusion(matrix: Tensor) -> Figure:
    """The confusion matrix int64 [10,10], true class by predicted class, its rows coloured by share."""
    shares = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(CLASSES)):
        for column in range(len(CLASSES)):
            if count := int(matrix[row, column]):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set(title="Confusion matrix of the test set", xlabel="predicted", ylabel="true")
    return figure
