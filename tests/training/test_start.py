from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier.classifier import Classifier
from classifier.torch_file import CheckpointError
from training.command import TrainingError
from training.data import Images
from training.recipes import FAST, PRETRAINED
from training.start import load_teacher, make_network, teach


def test_the_fixed_filters_come_from_the_training_images(tiny_images: Images) -> None:
    first, again = (make_network(FAST, tiny_images).state_dict() for _ in range(2))
    other = make_network(FAST, Images(tiny_images.pixels.flip(2), tiny_images.labels)).state_dict()
    assert torch.equal(first["filters.weight"], again["filters.weight"])
    assert not torch.equal(first["filters.weight"], other["filters.weight"])
    assert not torch.equal(first["head.weight"], again["head.weight"])


def test_what_a_pretrained_network_cannot_start_from_is_one_sentence(
    tmp_path: Path, tiny_checkpoint: Path, tiny_images: Images
) -> None:
    for arguments, words in (
        ({"backbone": "nope"}, "timm has no network 'nope'."),
        ({}, "tiny.pt does not hold timm's ImageNet weights of tf_efficientnet_lite0; name a file with --weights."),
    ):
        recipe = replace(PRETRAINED, arguments=PRETRAINED.arguments | arguments)
        with pytest.raises(TrainingError) as caught:
            make_network(recipe, tiny_images, tiny_checkpoint)
        assert str(caught.value) == words
    with pytest.raises(CheckpointError, match=r"^missing\.pt does not exist\.$"):
        make_network(PRETRAINED, tiny_images, tmp_path / "missing.pt")


def test_a_teacher_that_has_seen_the_held_out_images_is_refused(tiny_checkpoint: Path) -> None:
    assert load_teacher(tiny_checkpoint, "cpu", seed=0).model.startswith("tiny-")
    with pytest.raises(
        TrainingError, match=r"^tiny\.pt was trained with seed 0, on images that seed 1 holds out; pass"
    ):
        load_teacher(tiny_checkpoint, "cpu", seed=1)


def test_a_teacher_answers_every_image_in_its_place(tiny_images: Images, tiny_checkpoint: Path) -> None:
    teacher = Classifier.load(tiny_checkpoint, "cpu")
    taught = teach(tiny_images, teacher)
    assert taught.answers is not None
    assert taught.answers.shape == (len(tiny_images), 10)
    expected = torch.from_numpy(teacher.logits(tiny_images[5:6].array()))
    torch.testing.assert_close(taught.answers[5:6], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(taught.pixels, tiny_images.pixels)
