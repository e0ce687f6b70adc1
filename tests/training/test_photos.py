"""The photo network: photos in folders, their right classes, training, evaluation and prediction."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from classifier.checkpoint import load
from classifier.networks import CLASSES, PhotoNet
from classifier.pixels import PHOTO_SHAPE
from training import evaluate, photos, predict, run
from training.data import DataError, Images
from training.loop import Run, train
from training.photos import Photos, set_loss
from training.recipes import PHOTOS

KINDS = {"t-shirt": ["T-shirt/top"], "longsleeve": ["Pullover", "Shirt"], "outwear": ["Coat", "Pullover"], "hat": []}
EACH = 20  # photos of a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the colour of its folder."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number, name in enumerate(KINDS):
        (root / name).mkdir()
        for count in range(EACH):
            pixels = generator.integers(0, 100, (30, 40, 3), dtype=np.uint8)
            pixels[..., number % 3] += 100 + 20 * (number // 3)
            Image.fromarray(pixels).resize((80, 60), 0).save(root / name / f"{count}.png")
    (root / "classes.json").write_text(json.dumps(KINDS))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "imagenet.pt"
    torch.save(timm.create_model(PhotoNet.name).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "photos.pt"
    arguments = ["--recipe", "photos", "--photos", str(folder), "--weights", str(weights), "--output", str(output)]
    assert run.main([*arguments, "--epochs", "1", "--device", "cpu"]) == 0
    return output


def test_the_loss_is_that_of_the_summed_probability_of_the_right_classes() -> None:
    logits = torch.tensor([[2.0, 1.0, *[0.0] * 8]] * 3)
    right = torch.zeros(3, 10, dtype=torch.bool)
    right[0, 0] = right[1, :2] = True
    p = logits[0].softmax(dim=0)
    expected = [-p[0].log().item(), -(p[0] + p[1]).log().item(), -0.3 * p.log().mean().item()]
    assert set_loss(logits, right).tolist() == pytest.approx(expected)


def test_the_loss_has_finite_gradients() -> None:
    logits = torch.randn(2, 10, requires_grad=True)
    right = torch.zeros(2, 10, dtype=torch.bool)
    right[0, 0] = True
    set_loss(logits, right).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_photos_have_their_right_classes_and_what_to_learn(folder: Path) -> None:
    found = photos.load(folder)
    assert found.pixels.shape == (len(KINDS) * EACH, *PHOTO_SHAPE)
    for name, names in KINDS.items():
        marks = found.marks[[folder == name for folder in found.folders]]
        assert [CLASSES[index] for index in marks[0].nonzero().flatten().tolist()] == sorted(names, key=CLASSES.index)
        assert (marks == marks[0]).all()
    assert found.learned is not None
    coats = found.learned[[name == "outwear" for name in found.folders]]
    assert coats.sum(dim=0).tolist() == [EACH * (name == "Coat") for name in CLASSES]
    assert found.labels[[name == "hat" for name in found.folders]].eq(-1).all()


def test_folders_may_be_named_like_classes(tmp_path: Path) -> None:
    for name in ("T-shirt", "Ankle boot", "sneaker"):
        (tmp_path / name).mkdir()
    assert photos.classes_by_name(tmp_path) == {
        "T-shirt": ["T-shirt/top"], "Ankle boot": ["Ankle boot"], "sneaker": ["Sneaker"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must give a list of classes for each folder"),
        ('{"hat": "Bag"}', "must give a list of classes"),
        ('{"hat": ["Hat"]}', "has the class 'Hat'; known are T-shirt/top"),
        ('{"scarf": []}', "has no folder 'scarf'"),
        ('{"../hat": []}', "has no folder '../hat'"),
        (None, "is not named like a class"),
        ('{"hat": []}', "holds 0 photos; at least 50 are needed"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_sentence(tmp_path: Path, classes: str | None, words: str) -> None:
    (tmp_path / "hat").mkdir()
    if classes is not None:
        (tmp_path / "classes.json").write_text(classes)
    with pytest.raises(DataError, match=words):
        photos.load(tmp_path)


def test_a_missing_folder_and_a_broken_photo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        photos.load(tmp_path / "none")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/broken.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be used: .* Remove it, or replace it\.$"):
        photos.load(tmp_path)


def test_a_split_is_disjoint_and_repeats_itself(folder: Path) -> None:
    found = photos.load(folder)
    parts = photos.split(found, 300, 300, seed=3)
    again = photos.split(found, 300, 300, seed=3)
    assert [len(part) for part in parts] == [64, 8, 8]
    assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(parts, again, strict=True))
    assert sorted(name for part in parts for name in part.folders) == sorted(found.folders)
    assert len({part.pixels[index].numpy().tobytes() for part in parts for index in range(len(part))}) == len(found)


def test_training_writes_a_small_calibrated_checkpoint(trained: Path, folder: Path) -> None:
    checkpoint = load(trained)
    assert checkpoint.architecture == "PhotoNet"
    assert trained.stat().st_size <= 8_000_000
    assert checkpoint.calibration.keys() == {"temperature", "set_0.95", "set_0.99", "energy", "energy_scale"}
    assert checkpoint.training["photos"] == photos.load(folder).digest
    assert math.isfinite(checkpoint.metrics["test_loss"])


def test_evaluation_uses_only_photos_that_were_not_learned(
    trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    arguments = [str(trained), "--photos", str(folder), "--device", "cpu", "--report", str(report)]
    assert evaluate.main(arguments) == 0
    assert {"report.html", "samples.png", "mistakes.png"} <= {path.name for path in report.iterdir()}
    output = capsys.readouterr().out
    assert "The network was trained on these photos, except 8 for this test." in " ".join(output.split())
    result = json.loads(output.splitlines()[-1])
    assert result["test_accuracy"] == pytest.approx(load(trained).metrics["test_accuracy"])
    assert result["multiply_adds"] > 100_000_000


def test_a_network_for_photos_is_not_evaluated_on_fashion_mnist(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(trained), "--device", "cpu"]) == 1
    assert "photos.pt is a network for photos: name their folder with --photos DIR." in capsys.readouterr().err


def test_predict_uses_the_network_for_the_picture(
    trained: Path, tiny_checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = ["--checkpoint", str(tiny_checkpoint), "--photo-checkpoint", str(trained), "--device", "cpu"]
    assert predict.main(["shoe.png", str(folder / "hat/0.png"), *checkpoints]) == 0
    output = capsys.readouterr().out
    first, second = json.loads(output.splitlines()[-1])["predictions"]
    assert (first["model"].partition("-")[0], second["model"].partition("-")[0]) == ("tiny", "photos")
    assert second["input"] == {"format": "PNG", "width": 80, "height": 60, "adapted": ["padded", "resized"]}
    assert "The picture was padded, resized; photos-" in output
    assert predict.main(["shoe.png", "--checkpoint", str(trained)]) == 1
    assert "photos.pt is a network for photos; --checkpoint needs one for images" in capsys.readouterr().err


def test_a_pseudo_label_is_the_most_probable_of_the_right_classes(folder: Path) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.arange(10.0).repeat(len(pixels), 1)  # Ankle boot is the most probable, Bag the second

    found = photos.load(folder)
    narrowed = photos.with_pseudo_labels(found, Fixed())

    assert found.learned is not None
    assert narrowed.learned is not None
    single = found.learned.sum(dim=1) <= 1
    assert narrowed.learned[single].equal(found.learned[single])
    several = found.learned[~single]
    assert len(several) == EACH
    assert narrowed.learned[~single].int().argmax(dim=1).equal(9 - several.flip(1).int().argmax(dim=1))
    assert (narrowed.learned[~single].sum(dim=1) == 1).all()
    assert narrowed.marks.equal(found.marks)


def test_the_last_epochs_learn_pseudo_labels(folder: Path) -> None:
    fashion = Images(torch.zeros(100, 1, 28, 28, dtype=torch.uint8), torch.arange(100) % 10)

    def weights_after(pseudo_label_epochs: int) -> Tensor:
        recipe = replace(PHOTOS, epochs=1, batch_size=40, fashion_images=2, pseudo_label_epochs=pseudo_label_epochs)
        training, validation, _ = photos.load_parts(folder, recipe, 0, fashion)
        torch.manual_seed(0)
        network = PhotoNet()
        train(Run(recipe, network, training, validation))
        return network.classifier.weight

    assert weights_after(0).equal(weights_after(0))
    assert not weights_after(1).equal(weights_after(0))


def test_photos_are_images(folder: Path) -> None:
    found = photos.load(folder)
    moved: Photos = found.to(torch.device("cpu"))[:5]
    assert (len(moved), moved.marks.shape, moved.digest) == (5, (5, 10), found.digest)
