from pathlib import Path

import pytest
import torch
from torch.nn import functional

from classifier.classifier import Classifier
from training.command import TrainingError
from training.data import Images
from training.distillation import add_teacher_logits, distillation_loss, load_teacher


def test_a_teacher_trained_on_validation_images_is_refused(tiny_checkpoint: Path) -> None:
    assert load_teacher(tiny_checkpoint, "cpu", seed=0).model.startswith("tiny-")
    with pytest.raises(
        TrainingError, match=r"^tiny\.pt was trained with seed 0, on validation images of seed 1; pass --seed 0 or"
    ):
        load_teacher(tiny_checkpoint, "cpu", seed=1)


def test_each_image_gets_the_teachers_logits(tiny_images: Images, tiny_checkpoint: Path) -> None:
    teacher = Classifier.load(tiny_checkpoint, "cpu")
    images = add_teacher_logits(tiny_images, teacher)
    assert images.teacher_logits is not None
    assert images.teacher_logits.shape == (len(tiny_images), 10)
    expected = torch.from_numpy(teacher.logits(tiny_images[5:6].array()))
    torch.testing.assert_close(images.teacher_logits[5:6], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(images.pixels, tiny_images.pixels)


def test_the_distillation_loss_is_least_at_the_teachers_own_logits() -> None:
    teacher_logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    logits = teacher_logits.clone().requires_grad_()
    distillation_loss(logits, teacher_logits, temperature=4.0).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(5, 10), atol=1e-6, rtol=0)


def test_at_temperature_1_a_certain_teacher_is_a_label() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1, 4, 1, 5])
    certain = 1_000 * functional.one_hot(labels, 10).float()
    expected = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(distillation_loss(logits, certain, temperature=1.0), expected)
