from dataclasses import replace

import pytest
import torch
from torch import Tensor

from classifier.networks import ARCHITECTURES
from training.data import Images
from training.optimizer import make_optimizer, set_learning_rate
from training.recipes import FAST, Recipe
from training.step import Step

CHOSEN = torch.tensor([3, 8, 5, 1])
WEIGHTS = torch.tensor([0.5, 0.25, 0.5, 0.25])


class FakeGraph:
    """Replaces a CUDA graph where there is no GPU: `replay` runs the step on the graph's input tensors."""

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step = step
        step.chosen, step.weights = torch.zeros(batch_size, dtype=torch.int64), torch.zeros(batch_size)

    def replay(self) -> None:
        self.step.loss = self.step._run(self.step.chosen, self.step.weights)


@pytest.fixture
def plain() -> Recipe:
    """Muon and the tutorial's network, whose logits for an image do not depend on the rest of the batch."""
    arguments = {"sigmoid": False}
    return replace(
        FAST, architecture="Net", arguments=arguments, batch_size=6, flip=False, shift_pixels=0, precision="float32"
    )


def make_step(recipe: Recipe, images: Images) -> Step:
    torch.manual_seed(0)
    device = images.pixels.device
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments).to(device)
    optimizer = make_optimizer(recipe, network)
    set_learning_rate(replace(recipe, schedule="constant"), optimizer, 0.0)
    return Step(recipe, network, images, optimizer, torch.zeros(len(images), device=device))


def parameters(step: Step) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.network.parameters()])


def test_a_step_changes_the_weights_and_stores_the_loss_of_each_image(tiny_images: Images, plain: Recipe) -> None:
    step = make_step(plain, tiny_images)
    before = parameters(step)
    loss = step(CHOSEN, WEIGHTS)
    assert not torch.equal(parameters(step), before)
    assert set(step.losses.nonzero().flatten().tolist()) == set(CHOSEN.tolist())
    torch.testing.assert_close(loss, (step.losses[CHOSEN] * WEIGHTS).sum())


def test_padding_of_a_batch_does_not_change_the_weights(tiny_images: Images, plain: Recipe) -> None:
    padded, short = make_step(plain, tiny_images), make_step(plain, tiny_images)
    padded.graph = FakeGraph(padded, plain.batch_size)  # type: ignore[assignment]
    for _ in range(3):
        torch.testing.assert_close(padded(CHOSEN, WEIGHTS), short(CHOSEN, WEIGHTS))
    assert len(padded.chosen) == plain.batch_size
    torch.testing.assert_close(parameters(padded), parameters(short))
    torch.testing.assert_close(padded.losses, short.losses)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_batch_that_cannot_be_padded_is_not_replayed(count: int, tiny_images: Images, plain: Recipe) -> None:
    step, other = make_step(plain, tiny_images), make_step(plain, tiny_images)
    step.graph = FakeGraph(step, plain.batch_size)  # type: ignore[assignment]
    chosen, weights = torch.arange(count), torch.full((count,), 1 / count)
    assert torch.equal(step(chosen, weights), other(chosen, weights))


def test_the_learning_rate_may_be_a_tensor_on_the_device(tiny_images: Images, plain: Recipe) -> None:
    number, tensor = make_step(plain, tiny_images), make_step(plain, tiny_images)
    for group in tensor.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    for _ in range(3):
        torch.testing.assert_close(tensor(CHOSEN, WEIGHTS), number(CHOSEN, WEIGHTS))
    torch.testing.assert_close(parameters(tensor), parameters(number))


def test_nothing_is_captured_without_an_nvidia_gpu(tiny_images: Images, plain: Recipe) -> None:
    step = make_step(plain, tiny_images)
    assert not step.capture()
    assert step.graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_captured_step_trains_like_one_that_is_not(tiny_images: Images, plain: Recipe) -> None:
    images = tiny_images.to(torch.device("cuda"))
    captured, other = make_step(plain, images), make_step(plain, images)
    assert captured.capture()
    set_learning_rate(replace(plain, schedule="constant"), captured.optimizer, 0.0)
    for _ in range(3):
        found, expected = (step(CHOSEN.cuda(), WEIGHTS.cuda()).item() for step in (captured, other))
        assert found == pytest.approx(expected, rel=0.02)
