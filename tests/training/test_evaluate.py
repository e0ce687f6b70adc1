import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from classifier.classifier import Classifier
from classifier.networks import CLASSES
from training import evaluate
from training.data import DEBIAN_DIR, TEST_FILES, Images
from training.evaluate import latency, print_table
from training.metrics import evaluate as evaluate_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint: Path) -> Classifier:
    return Classifier.load(tiny_checkpoint, "cpu")


def test_latency_grows_with_the_batch(
    classifier: Classifier, tiny_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LATENCY_SECONDS", 0.05)
    one, all_400 = latency(classifier, tiny_images[:1]), latency(classifier, tiny_images)
    assert 0 < one < all_400


def test_the_table_has_every_class_and_the_total(classifier: Classifier, tiny_images: Images) -> None:
    console = Console(file=io.StringIO(), record=True, width=80)
    evaluation = evaluate_images(classifier, tiny_images)
    print_table(console, evaluation)
    text = console.export_text()
    assert all(name in text for name in CLASSES)
    assert f"({evaluation.correct_count} of {len(tiny_images)}; 95% interval" in " ".join(text.split())


def test_a_missing_checkpoint_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path / "missing.pt")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: {tmp_path}/missing.pt does not exist: train it with `python -m training.run`.\n"


def test_missing_data_is_one_sentence(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(tiny_checkpoint), "--data-dir", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1


@pytest.mark.data
@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "tutorial_state_dict"])
def test_the_command_evaluates_a_checkpoint_on_the_test_set(
    checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = request.getfixturevalue(checkpoint)
    assert evaluate.main([str(path), "--device", "cpu", "--report", str(tmp_path)]) == 0
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


@pytest.mark.data
def test_the_test_files_alone_are_enough_and_an_assumption_is_said(
    tmp_path: Path, tutorial_state_dict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in TEST_FILES:
        (tmp_path / f"{name.replace('-idx', '.idx')}.gz").symlink_to(DEBIAN_DIR / f"{name}.gz")
    assert evaluate.main([str(tutorial_state_dict), "--device", "cpu", "--data-dir", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "pixels / 255 and no Normalize, no ReLU behind the convolutions, and a sigmoid at the end" in output
