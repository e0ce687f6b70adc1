import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from classifier.checkpoint import Checkpoint
from classifier.classifier import Classifier
from classifier.networks import CLASSES, ConvNet, Net
from training import evaluate as module
from training.data import Images
from training.evaluate import (
    all_logits,
    evaluate,
    expected_calibration_error,
    latency,
    multiply_adds,
    print_table,
    reliability,
    wilson_interval,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier.load(tiny_checkpoint, "cpu")


def test_an_evaluation_judges_the_answers_that_are_served(classifier: Classifier, tiny_images: Images) -> None:
    evaluation = evaluate(classifier, tiny_images)
    answers = classifier.predict(tiny_images.array())
    assert evaluation.predicted.tolist() == [answer["index"] for answer in answers]
    assert evaluation.confidence.tolist() == pytest.approx([answer["confidence"] for answer in answers])
    right = [answer["index"] == label for answer, label in zip(answers, tiny_images.labels.tolist(), strict=True)]
    assert (evaluation.correct, evaluation.total) == (sum(right), len(right))
    assert evaluation.accuracy == sum(right) / len(right)
    assert evaluation.right.tolist() == right


def test_losses_and_brier_score_are_those_of_the_textbook(classifier: Classifier, tiny_images: Images) -> None:
    hotter = Classifier(replace(classifier.checkpoint, calibration={"temperature": 2.0}), CPU)
    evaluation = evaluate(hotter, tiny_images)
    logits, labels = all_logits(hotter, tiny_images), tiny_images.labels
    probabilities = (logits / 2).softmax(dim=1)
    squares = (probabilities - functional.one_hot(labels, len(CLASSES))) ** 2
    assert evaluation.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert evaluation.nll == pytest.approx(functional.cross_entropy(logits / 2, labels).item(), rel=1e-4)
    assert evaluation.brier == pytest.approx(squares.sum(dim=1).mean().item(), rel=1e-4)


def test_the_confusion_matrix_has_true_classes_as_rows(classifier: Classifier, tiny_images: Images) -> None:
    bags = Images(tiny_images.pixels, torch.full_like(tiny_images.labels, CLASSES.index("Bag")))
    confusion = evaluate(classifier, bags).confusion
    assert confusion.shape == (10, 10)
    assert confusion.sum() == confusion[CLASSES.index("Bag")].sum() == len(bags)
    assert (confusion.sum(dim=0) > 0).sum() > 1


def test_precision_recall_and_f1_are_stated_class_by_class(classifier: Classifier, tiny_images: Images) -> None:
    labels = tiny_images.labels.clone()
    labels[labels == 3] = 4  # of those now called 4, only the old ones are found
    evaluation = evaluate(classifier, Images(tiny_images.pixels, labels))
    assert evaluation.recall[9] > 0.9
    assert evaluation.precision[9] > 0.9
    assert evaluation.recall[4] == pytest.approx(0.5, abs=0.1)
    assert evaluation.precision[4] > 0.9
    assert evaluation.precision[3] < 0.1
    precision, recall = evaluation.precision[4], evaluation.recall[4]
    assert evaluation.f1[4] == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    [(9_400, 10_000, (0.9352, 0.9445)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (5, 10, (0.2366, 0.7634))],
)
def test_the_interval_is_wilsons(correct: int, total: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(correct, total) == pytest.approx(expected, abs=1e-4)


def test_reliability_counts_every_image_once(classifier: Classifier, tiny_images: Images) -> None:
    evaluation = evaluate(classifier, tiny_images)
    bins = list(reliability(evaluation.confidence, evaluation.right))
    assert sum(n for _, _, n in bins) == len(tiny_images)
    assert [sure for sure, _, _ in bins] == sorted(sure for sure, _, _ in bins)
    assert sum(share * n for _, share, n in bins) / len(tiny_images) == pytest.approx(evaluation.accuracy)


def test_latency_is_that_of_answers(
    classifier: Classifier, tiny_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATENCY_SECONDS", 0.05)
    one, many = latency(classifier, tiny_images[:1]), latency(classifier, tiny_images)
    assert 0 < one < many


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "expected"),
    [
        ([1.0, 1.0, 1.0], [1, 1, 1], 15, 0.0),
        ([1.0, 1.0, 1.0], [0, 0, 0], 15, 1.0),
        ([0.8] * 5, [1, 1, 1, 1, 0], 1, 0.0),
        ([0.9] * 4, [1, 1, 0, 0], 1, 0.4),
        ([0.5, 0.5, 1.0, 1.0], [1, 0, 1, 0], 2, 0.25),
        ([1.0, 0.5, 1.0, 0.5], [1, 0, 1, 1], 2, 0.0),
        ([0.2, 0.4, 0.6], [0, 0, 1], 2, 0.2 + 0.4 / 3),
    ],
    ids=["sure-and-right", "sure-and-wrong", "honest", "boastful", "two-bins", "any-order", "odd-bins"],
)
def test_expected_calibration_error_of_hand_made_cases(
    confidence: list[float], right: list[int], bins: int, expected: float
) -> None:
    confidences = torch.tensor(confidence, dtype=torch.float64)
    assert expected_calibration_error(confidences, torch.tensor(right).bool(), bins) == pytest.approx(expected)


def test_multiply_adds_and_parameters_of_the_tutorials_net() -> None:
    classifier = Classifier(Checkpoint("Net", {}, Net().state_dict()), CPU)
    assert multiply_adds(classifier) == 24 * 24 * 6 * 25 + 8 * 8 * 10 * 150 + 160 * 56 + 56 * 10 == 191_920
    assert classifier.checkpoint.parameters == 11_252


def test_multiply_adds_of_a_network_of_ours() -> None:
    middle, high = 3, 4
    classifier = Classifier(
        Checkpoint("ConvNet", {"widths": (middle, high)}, ConvNet((middle, high)).state_dict()), CPU
    )
    convolutions = 28**2 * 18 + 14**2 * 18 * middle + 7**2 * middle * high + 4**2 * high * high
    assert multiply_adds(classifier) == 9 * convolutions + 10 * high


def test_the_table_names_every_class_and_the_total(classifier: Classifier, tiny_images: Images) -> None:
    console = Console(file=io.StringIO(), record=True, width=80)
    evaluation = evaluate(classifier, tiny_images)
    print_table(console, evaluation)
    text = console.export_text()
    assert all(name in text for name in CLASSES)
    assert f"({evaluation.correct} of {evaluation.total}; 95% interval" in " ".join(text.split())


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main([str(tmp_path / "missing.pt")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "error: missing.pt does not exist: train it with `python -m training.run`.\n"


def test_missing_data_is_one_sentence(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main([str(tiny_checkpoint), "--data-dir", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1


@pytest.mark.data
@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "tutorial_state_dict"])
def test_the_command_judges_a_checkpoint_on_the_test_set(
    checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = request.getfixturevalue(checkpoint)
    assert module.main([str(path), "--device", "cpu", "--report", str(tmp_path)]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    keys = {"checkpoint", "parameters", "multiply_adds", "test_loss", "test_accuracy", "ece", "nll", "brier"}
    assert keys <= result.keys()
    assert result["checkpoint"] == str(path)
    assert 0 < result["test_accuracy"] < 1
    assert f"{round(result['test_accuracy'] * 10_000):,} of 10,000" in output.out
    assert result["test_accuracy_95"][0] < result["test_accuracy"] < result["test_accuracy_95"][1]
    assert 0 < result["latency_ms_1"] < result["latency_ms_64"]
    assert {*result["precision"]} == {*result["recall"]} == {*result["f1"]} == {*CLASSES}
    assert (tmp_path / "confusion.png").stat().st_size > 10_000
    assert (tmp_path / "report.html").stat().st_size > 100_000
