import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.classifier import Classifier
from classifier.networks import CLASSES
from training import report
from training.command import TrainingError
from training.data import Images
from training.evaluate import Evaluation, evaluate

HISTORY = [
    {"training_loss": 1.0 / epoch, "validation_loss": 1.2 / epoch, "validation_accuracy": 1 - 0.5 / epoch}
    for epoch in range(1, 4)
]


def texts(figure: Figure) -> set[str]:
    """All words on a figure, once it is drawn."""
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def evaluated(tiny_checkpoint: Path, tiny_images: Images) -> tuple[Checkpoint, Evaluation, Images]:
    """A checkpoint, what it is worth on images of which a tenth is labelled wrongly, and those."""
    labels = tiny_images.labels.clone()
    labels[::10] = (labels[::10] + 1) % 10
    images = Images(tiny_images.pixels, labels)
    classifier = Classifier.load(tiny_checkpoint, "cpu")
    return classifier.checkpoint, evaluate(classifier, images), images


def test_a_report_is_one_page_with_its_figures_beside_it(
    tmp_path: Path, evaluated: tuple[Checkpoint, Evaluation, Images]
) -> None:
    checkpoint, evaluation, images = evaluated
    folder = tmp_path / "new" / "folder"
    report.write(folder, checkpoint, evaluation, images, sample=images)
    names = {"samples", "confusion", "reliability", "mistakes", "curves"}
    assert {path.name for path in folder.iterdir()} == {"report.html", *(f"{name}.png" for name in names)}
    page = (folder / "report.html").read_text()
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture.convert("L")).std() > 1
        assert base64.b64encode((folder / f"{name}.png").read_bytes()).decode() in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)|url\(|@import|<script""", page)  # no other file, no host
    words = {checkpoint.model, checkpoint.sha256, f"{100 * evaluation.accuracy:.2f} %", *map(html.escape, CLASSES)}
    assert all(word in page for word in words)


def test_a_page_does_not_take_a_checkpoints_words_for_its_own(
    tmp_path: Path, evaluated: tuple[Checkpoint, Evaluation, Images]
) -> None:
    checkpoint, evaluation, images = evaluated
    hostile = replace(checkpoint, training={"recipe": "x", "settings": {"<script>": "<img src=//a.example>"}})
    report.write(tmp_path, hostile, evaluation, images, sample=images)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "<img src=//" not in page
    assert not (tmp_path / "curves.png").exists()


def test_the_surest_mistakes_come_first(evaluated: tuple[Checkpoint, Evaluation, Images]) -> None:
    _, evaluation, images = evaluated
    titles = [axes.get_title() for axes in report.mistakes(evaluation, images).axes if axes.images]
    assert len(titles) == min(report.MISTAKES, int((~evaluation.right).sum())) == report.MISTAKES
    sure = [int(re.search(r"(\d+)%", title)[1]) for title in titles]  # type: ignore[index]
    assert sure == sorted(sure, reverse=True)
    assert all(re.fullmatch(r"(.+) \d+%\nlabel (.+)", title)[1] not in title.partition("\n")[2] for title in titles)  # type: ignore[index]


def test_a_classifier_without_mistakes_has_a_report(tmp_path: Path, tiny_checkpoint: Path, tiny_images: Images) -> None:
    classifier = Classifier.load(tiny_checkpoint, "cpu")
    evaluation = evaluate(classifier, tiny_images)
    right = tiny_images[evaluation.right.nonzero().flatten()]
    report.write(tmp_path, classifier.checkpoint, evaluate(classifier, right), right, sample=right)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("n", [1, 10, 13])
def test_the_sample_grid_shows_each_image_with_its_label(n: int, tiny_images: Images) -> None:
    figure = report.samples(tiny_images[:n])
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
        report.write_files(tmp_path / "file", {})
