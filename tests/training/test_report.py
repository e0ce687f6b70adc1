from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from training import report
from training.classifier.model import CLASSES
from training.command import TrainingError
from training.data import Images

HISTORY = [
    {"training_loss": 1.0 / epoch, "validation_loss": 1.2 / epoch, "validation_accuracy": 1 - 0.5 / epoch}
    for epoch in range(1, 4)
]


def texts(figure: Figure) -> set[str]:
    """All words on a figure, once it is drawn."""
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}  # type: ignore[attr-defined]


def test_the_figures_are_written_as_pictures(tmp_path: Path, tiny_images: Images) -> None:
    figures = {
        "samples.png": report.samples(tiny_images.pixels[:20], tiny_images.labels[:20]),
        "curves.png": report.curves(HISTORY),
        "confusion.png": report.confusion(torch.eye(10, dtype=torch.int64)),
    }
    report.write(tmp_path / "new" / "folder", figures)
    for name in figures:
        with Image.open(tmp_path / "new" / "folder" / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 1


@pytest.mark.parametrize("n", [1, 10, 13])
def test_the_sample_grid_shows_each_image_with_its_label(n: int, tiny_images: Images) -> None:
    figure = report.samples(tiny_images.pixels[:n], tiny_images.labels[:n])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [CLASSES[label] for label in tiny_images.labels[:n]]
    for axes, pixels in zip(shown, tiny_images.pixels, strict=False):
        assert np.array_equal(axes.images[0].get_array(), pixels[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_curves_show_every_epoch(epochs: int) -> None:
    loss, accuracy = report.curves(HISTORY[:epochs]).axes
    assert [len(line.get_xdata()) for line in (*loss.lines, *accuracy.lines)] == [epochs] * 3  # type: ignore[arg-type]
    assert list(accuracy.lines[0].get_ydata()) == [100 * epoch["validation_accuracy"] for epoch in HISTORY[:epochs]]  # type: ignore[arg-type]


def test_the_confusion_matrix_states_counts_and_classes() -> None:
    matrix = torch.zeros(10, 10, dtype=torch.int64)
    matrix[0, 6], matrix[9, 9] = 1_234, 57
    words = texts(report.confusion(matrix))
    assert {"1,234", "57", *CLASSES} <= words
    assert "0" not in words


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"^the report could not be written to .*file: File exists\.$"):
        report.write(tmp_path / "file", {})
