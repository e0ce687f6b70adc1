from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.classifier.archive import CheckpointError
from training.classifier.checkpoint import build, load, save
from training.command import TrainingError
from training.data import Images
from training.recipes import FAST, PRETRAINED
from training.start import load_teacher, make_network


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


def test_a_teacher_answers_for_one_view_and_does_not_learn(
    tmp_path: Path, tiny_images: Images, tiny_checkpoint: Path
) -> None:
    checkpoint = load(tiny_checkpoint)
    save(replace(checkpoint, arguments=checkpoint.arguments | {"views": 6}), tmp_path / "six.pt")
    name, teacher = load_teacher(tmp_path / "six.pt", torch.device("cpu"))
    assert name == load(tmp_path / "six.pt").model
    pixels = tiny_images[:5].pixels
    torch.testing.assert_close(teacher(pixels), build(checkpoint)(pixels))
    assert not teacher(pixels).requires_grad
    with pytest.raises(CheckpointError, match=r"^missing\.pt does not exist"):
        load_teacher(tmp_path / "missing.pt", torch.device("cpu"))
