from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from classifier.classifier import Classifier
from classifier.networks import CLASSES
from training import metrics
from training.data import Images
from training.metrics import all_logits, confusion_matrix, evaluate, expected_calibration_error, reliability

# By hand. Class 0: predicted 0, 0, 1. Class 1: predicted 1, 1, 1, 2. Class 2: predicted 0. Class 3 is predicted once.
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 9])
PREDICTED = torch.tensor([0, 0, 1, 1, 1, 1, 2, 0, 3])


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier.load(tiny_checkpoint, "cpu")


def test_the_confusion_matrix_has_true_classes_as_rows_and_predicted_ones_as_columns() -> None:
    confusion = confusion_matrix(LABELS, PREDICTED)
    assert (confusion.shape, confusion.dtype) == ((10, 10), torch.int64)
    assert confusion[:4, :4].tolist() == [[2, 1, 0, 0], [0, 3, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion[9].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert confusion.sum() == len(LABELS)


def test_precision_recall_and_f1_of_hand_made_predictions() -> None:
    confusion = confusion_matrix(LABELS, PREDICTED)
    assert metrics.precision(confusion).tolist() == pytest.approx([2 / 3, 3 / 4, 0, 0, 0, 0, 0, 0, 0, 0])
    assert metrics.recall(confusion).tolist() == pytest.approx([2 / 3, 3 / 4, 0, 0, 0, 0, 0, 0, 0, 0])
    assert metrics.f1(confusion).tolist() == pytest.approx([2 / 3, 3 / 4, 0, 0, 0, 0, 0, 0, 0, 0])
    one_sided = confusion_matrix(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 1]))
    assert metrics.precision(one_sided)[:2].tolist() == pytest.approx([1, 1 / 3])
    assert metrics.recall(one_sided)[:2].tolist() == pytest.approx([1 / 3, 1])
    assert metrics.f1(one_sided)[:2].tolist() == pytest.approx([1 / 2, 1 / 2])


def test_an_evaluation_is_that_of_the_predictions_that_are_served(classifier: Classifier, tiny_images: Images) -> None:
    evaluation = evaluate(classifier, tiny_images)
    predictions = classifier.predict(tiny_images.array())
    correct = [p["index"] == label for p, label in zip(predictions, tiny_images.labels.tolist(), strict=True)]
    assert evaluation.predicted.tolist() == [prediction["index"] for prediction in predictions]
    assert evaluation.confidence.tolist() == pytest.approx([prediction["confidence"] for prediction in predictions])
    assert evaluation.correct.tolist() == correct
    assert evaluation.correct_count == sum(correct)
    assert evaluation.accuracy == sum(correct) / len(correct)
    assert torch.equal(evaluation.confusion, confusion_matrix(tiny_images.labels, evaluation.predicted))


def test_losses_and_brier_score_follow_their_definitions(classifier: Classifier, tiny_images: Images) -> None:
    checkpoint = replace(classifier.checkpoint, calibration={"temperature": 2.0})
    classifier = Classifier(checkpoint, torch.device("cpu"))
    evaluation = evaluate(classifier, tiny_images)
    logits, labels = all_logits(classifier, tiny_images), tiny_images.labels
    probabilities = (logits / 2).softmax(dim=1)
    squares = (probabilities - functional.one_hot(labels, len(CLASSES))) ** 2
    assert evaluation.loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert evaluation.nll == pytest.approx(functional.cross_entropy(logits / 2, labels).item(), rel=1e-4)
    assert evaluation.brier == pytest.approx(squares.sum(dim=1).mean().item(), rel=1e-4)


def test_scores_are_listed_by_class(classifier: Classifier, tiny_images: Images) -> None:
    labels = tiny_images.labels.clone()
    labels[labels == 3] = 4  # of the images now labelled 4, only those labelled 4 before are predicted as 4
    scores = evaluate(classifier, Images(tiny_images.pixels, labels)).per_class
    assert list(scores) == ["precision", "recall", "f1"]
    assert all(tuple(values) == CLASSES for values in scores.values())
    assert scores["recall"][CLASSES[9]] > 0.9
    assert scores["recall"][CLASSES[4]] == pytest.approx(0.5, abs=0.1)
    assert scores["precision"][CLASSES[4]] > 0.9
    assert scores["precision"][CLASSES[3]] < 0.1


@pytest.mark.parametrize(
    ("correct", "total", "expected"),
    [(9_400, 10_000, (0.9352, 0.9445)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (5, 10, (0.2366, 0.7634))],
)
def test_the_interval_is_wilsons(correct: int, total: int, expected: tuple[float, float]) -> None:
    assert metrics.wilson_interval(correct, total) == pytest.approx(expected, abs=1e-4)


def test_every_image_is_in_one_reliability_bin(classifier: Classifier, tiny_images: Images) -> None:
    evaluation = evaluate(classifier, tiny_images)
    bins = list(reliability(evaluation.confidence, evaluation.correct))
    confidences = [confidence for confidence, _, _ in bins]
    assert sum(n for _, _, n in bins) == len(tiny_images)
    assert confidences == sorted(confidences)
    assert sum(accuracy * n for _, accuracy, n in bins) / len(tiny_images) == pytest.approx(evaluation.accuracy)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "expected"),
    [
        ([1.0, 1.0, 1.0], [1, 1, 1], 15, 0.0),
        ([1.0, 1.0, 1.0], [0, 0, 0], 15, 1.0),
        ([0.8] * 5, [1, 1, 1, 1, 0], 1, 0.0),
        ([0.9] * 4, [1, 1, 0, 0], 1, 0.4),
        ([0.5, 0.5, 1.0, 1.0], [1, 0, 1, 0], 2, 0.25),
        ([1.0, 0.5, 1.0, 0.5], [1, 0, 1, 1], 2, 0.0),
        ([0.2, 0.4, 0.6], [0, 0, 1], 2, 0.2 + 0.4 / 3),
    ],
    ids=["certain-right", "certain-wrong", "calibrated", "overconfident", "two-bins", "any-order", "unequal-bins"],
)
def test_expected_calibration_error_of_hand_made_cases(
    confidence: list[float], correct: list[int], bins: int, expected: float
) -> None:
    confidences = torch.tensor(confidence, dtype=torch.float64)
    assert expected_calibration_error(confidences, torch.tensor(correct).bool(), bins) == pytest.approx(expected)
