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

from classifier.checkpoint import Checkpoint, load, save
from classifier.classifier import Classifier
from classifier.networks import CLASSES
from training import report
from training.command import TrainingError
from training.data import Images
from training.metrics import Evaluation, evaluate

HISTORY = [
    {"training_loss": 1.0 / epoch, "validation_loss": 1.2 / epoch, "validation_accuracy": 1 - 0.5 / epoch}
    for epoch in range(1, 4)
]


def texts(figure: Figure) -> set[str]:
    """All texts of a figure after it is drawn."""
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def evaluated(tiny_checkpoint: Path, tiny_images: Images) -> tuple[Checkpoint, Evaluation, Images]:
    """A checkpoint and its evaluation on images, a tenth of them labelled wrongly."""
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
    report.write(folder, checkpoint, evaluation, images, sample=images, corrupted={"none": evaluation})
    names = {"samples", "confusion", "reliability", "familiarity", "sets", "mistakes", "curves"}
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


def test_texts_of_a_checkpoint_are_escaped(tmp_path: Path, evaluated: tuple[Checkpoint, Evaluation, Images]) -> None:
    checkpoint, evaluation, images = evaluated
    hostile = replace(checkpoint, training={"recipe": "x", "settings": {"<script>": "<img src=//a.example>"}})
    report.write(tmp_path, hostile, evaluation, images, sample=images, corrupted={"none": evaluation})
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "<img src=//" not in page
    assert not (tmp_path / "curves.png").exists()


def test_recipe_settings_of_an_old_checkpoint_have_their_new_names(
    tmp_path: Path, evaluated: tuple[Checkpoint, Evaluation, Images]
) -> None:
    checkpoint, evaluation, images = evaluated
    settings = {"taught": 0.9, "kept": "lowest loss", "arguments": {"views": 6}}
    save(replace(checkpoint, training={"recipe": "old", "settings": settings}), tmp_path / "old.pt")
    report.write(tmp_path, load(tmp_path / "old.pt"), evaluation, images, sample=images, corrupted={"none": evaluation})
    rows = dict(re.findall(r"<tr><th>(\w+)</th><td>(.*)</td></tr>", (tmp_path / "report.html").read_text()))
    assert (rows["distillation_weight"], rows["keep"]) == ("0.9", "best")
    assert "tta_views" in rows["arguments"]
    assert not {"taught", "kept"} & rows.keys()


def test_mistakes_are_sorted_by_confidence(evaluated: tuple[Checkpoint, Evaluation, Images]) -> None:
    _, evaluation, images = evaluated
    titles = [axes.get_title() for axes in report.mistake_grid(evaluation, images).axes if axes.images]
    assert len(titles) == min(report.MISTAKES, int((~evaluation.correct).sum())) == report.MISTAKES
    confidences = [int(re.search(r"(\d+)%", title)[1]) for title in titles]  # type: ignore[index]
    assert confidences == sorted(confidences, reverse=True)
    assert all(re.fullmatch(r"(.+) \d+%\nlabel (.+)", title)[1] not in title.partition("\n")[2] for title in titles)  # type: ignore[index]


def test_a_classifier_without_mistakes_has_a_report(tmp_path: Path, tiny_checkpoint: Path, tiny_images: Images) -> None:
    classifier = Classifier.load(tiny_checkpoint, "cpu")
    evaluation = evaluate(classifier, tiny_images)
    correct = tiny_images[evaluation.correct.nonzero().flatten()]
    evaluation = evaluate(classifier, correct)
    report.write(tmp_path, classifier.checkpoint, evaluation, correct, correct, {"none": evaluation})
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("n", [1, 10, 13])
def test_the_sample_grid_has_each_image_with_its_label(n: int, tiny_images: Images) -> None:
    figure = report.sample_grid(tiny_images[:n])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [CLASSES[label] for label in tiny_images.labels[:n]]
    for axes, pixels in zip(shown, tiny_images.pixels, strict=False):
        assert np.array_equal(axes.images[0].get_array(), pixels[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_learning_curves_have_every_epoch(epochs: int) -> None:
    loss, accuracy = report.learning_curves(HISTORY[:epochs]).axes
    assert [len(line.get_xdata()) for line in (*loss.lines, *accuracy.lines)] == [epochs] * 3  # type: ignore[arg-type]
    assert list(accuracy.lines[0].get_ydata()) == [100 * epoch["validation_accuracy"] for epoch in HISTORY[:epochs]]  # type: ignore[arg-type]


def test_the_confusion_matrix_has_counts_and_classes() -> None:
    matrix = torch.zeros(10, 10, dtype=torch.int64)
    matrix[0, 6], matrix[9, 9] = 1_234, 57
    words = texts(report.confusion_figure(matrix))
    assert {"1,234", "57", *CLASSES} <= words
    assert "0" not in words


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"^the report could not be written to .*file: File exists\.$"):
        report.write_files(tmp_path / "file", {})


DEEP: list[object] = ["deep"]
for _ in range(20):
    DEEP = [DEEP, DEEP]


@pytest.mark.parametrize(
    "training",
    [
        {"history": [{"loss": 1.0}]},
        {"history": [{"training_loss": "1", "validation_loss": None, "validation_accuracy": 1.0}]},
        {"history": 5},
        {"history": [5]},
        {"history": [{"training_loss": float("nan"), "validation_loss": 1.0, "validation_accuracy": 1e300}]},
        {"settings": 5},
        {"settings": {"arguments": DEEP}, "versions": {"python": DEEP}, "data": DEEP},
        {"note": "x" * 10_000_000, **{f"fact{number}": number for number in range(10_000)}},
    ],
    ids=range(8),
)
def test_odd_metadata_leaves_the_page_small(
    training: dict[str, object], tmp_path: Path, evaluated: tuple[Checkpoint, Evaluation, Images]
) -> None:
    checkpoint, evaluation, images = evaluated
    odd = replace(checkpoint, training={"recipe": "x", "seed": 0, **training})
    report.write(tmp_path, odd, evaluation, images, sample=images, corrupted={"none": evaluation})
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    assert not (tmp_path / "curves.png").exists()
