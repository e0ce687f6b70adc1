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


class Replayed:
    """Stands for a CUDA graph where there is no GPU: does anew what was recorded, with what lies there to be read."""

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step = step
        step.chosen, step.weights = torch.zeros(batch_size, dtype=torch.int64), torch.zeros(batch_size)

    def replay(self) -> None:
        self.step.loss = self.step._run(self.step.chosen, self.step.weights)


@pytest.fixture
def plain() -> Recipe:
    """Our optimiser and the tutorial's network, whose answer to an image does not depend on the others of its batch."""
    arguments = {"sigmoid": False}
    return replace(
        FAST, architecture="Net", arguments=arguments, batch_size=6, flip=False, shift=0, precision="float32"
    )


def make_step(recipe: Recipe, images: Images) -> Step:
    torch.manual_seed(0)
    device = images.pixels.device
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments).to(device)
    optimizer = make_optimizer(recipe, network)
    set_learning_rate(replace(recipe, schedule="constant"), optimizer, 0.0)
    return Step(recipe, network, images, optimizer, torch.zeros(len(images), device=device))


def learned(step: Step) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.network.parameters()])


def test_a_step_changes_the_weights_and_tells_each_images_loss(tiny_images: Images, plain: Recipe) -> None:
    step = make_step(plain, tiny_images)
    before = learned(step)
    loss = step(CHOSEN, WEIGHTS)
    assert not torch.equal(learned(step), before)
    assert set(step.losses.nonzero().flatten().tolist()) == set(CHOSEN.tolist())
    torch.testing.assert_close(loss, (step.losses[CHOSEN] * WEIGHTS).sum())


def test_what_fills_a_batch_up_counts_nothing(tiny_images: Images, plain: Recipe) -> None:
    filled, short = make_step(plain, tiny_images), make_step(plain, tiny_images)
    filled.graph = Replayed(filled, plain.batch_size)  # type: ignore[assignment]
    for _ in range(3):
        torch.testing.assert_close(filled(CHOSEN, WEIGHTS), short(CHOSEN, WEIGHTS))
    assert len(filled.chosen) == plain.batch_size
    torch.testing.assert_close(learned(filled), learned(short))
    torch.testing.assert_close(filled.losses, short.losses)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_batch_that_cannot_be_filled_up_is_not_replayed(count: int, tiny_images: Images, plain: Recipe) -> None:
    step, other = make_step(plain, tiny_images), make_step(plain, tiny_images)
    step.graph = Replayed(step, plain.batch_size)  # type: ignore[assignment]
    chosen, weights = torch.arange(count), torch.full((count,), 1 / count)
    assert torch.equal(step(chosen, weights), other(chosen, weights))


def test_a_rate_may_lie_on_the_device(tiny_images: Images, plain: Recipe) -> None:
    number, tensor = make_step(plain, tiny_images), make_step(plain, tiny_images)
    for group in tensor.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"])
    for _ in range(3):
        torch.testing.assert_close(tensor(CHOSEN, WEIGHTS), number(CHOSEN, WEIGHTS))
    torch.testing.assert_close(learned(tensor), learned(number))


def test_nothing_is_recorded_without_an_nvidia_gpu(tiny_images: Images, plain: Recipe) -> None:
    step = make_step(plain, tiny_images)
    assert not step.record()
    assert step.graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_recorded_step_does_what_one_does_that_is_not(tiny_images: Images, plain: Recipe) -> None:
    images = tiny_images.to(torch.device("cuda"))
    recorded, other = make_step(plain, images), make_step(plain, images)
    assert recorded.record()
    set_learning_rate(replace(plain, schedule="constant"), recorded.optimizer, 0.0)
    for _ in range(3):
        found, expected = (step(CHOSEN.cuda(), WEIGHTS.cuda()).item() for step in (recorded, other))
        assert found == pytest.approx(expected, rel=0.02)
