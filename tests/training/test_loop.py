import io
import re
import signal
from dataclasses import replace
from typing import Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from classifier.networks import ARCHITECTURES
from training.command import TrainingError
from training.data import Images, split
from training.loop import Progression, loop
from training.recipes import FAST, TUTORIAL, Recipe
from training.step import loss_of_each, precision


class InterruptingStream(io.StringIO):
    """A stream on which Ctrl-C is pressed once, when it is first written a certain text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.text and self.text in text:
            self.text = ""
            signal.raise_signal(signal.SIGINT)
        return written


def train(recipe: Recipe, images: Images, seed: int = 0, console: Console | None = None) -> Progression:
    torch.manual_seed(seed)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    return loop(console or Console(quiet=True), recipe, network, *split(images, recipe.held_out, seed), seed)


def equal(progressions: list[Progression]) -> bool:
    first, second = (progression.best_weights for progression in progressions)
    assert first
    assert second
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """PyTorch reports a CPU with or without bfloat16."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.fixture
def fast_recipe(tiny_recipe: Recipe) -> Recipe:
    """The tiny recipe with every knob of FAST that is not about size."""
    return replace(FAST, arguments=tiny_recipe.arguments, held_out=100, epochs=2, batch_size=50)


def test_the_loop_learns(tiny_images: Images, tiny_recipe: Recipe) -> None:
    progression = train(tiny_recipe, tiny_images)
    assert len(progression.history) == tiny_recipe.epochs
    assert progression.history[-1]["training_loss"] < progression.history[0]["training_loss"]
    assert max(epoch["validation_accuracy"] for epoch in progression.history) > 0.9
    assert not progression.interrupted


def test_the_weights_of_the_lowest_validation_loss_are_kept(tiny_images: Images) -> None:
    recipe = replace(TUTORIAL, arguments={"sigmoid": False}, learning_rate=0.1, epochs=4)
    wrong = Images(tiny_images.pixels, (tiny_images.labels + 1) % 10)  # the more is learned, the worse on these
    torch.manual_seed(0)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    progression = loop(Console(quiet=True), recipe, network, tiny_images, wrong, seed=0)
    losses = [epoch["validation_loss"] for epoch in progression.history]
    assert progression.best_loss == min(losses) < losses[-1]
    assert progression.best_weights is not None
    network.load_state_dict(progression.best_weights)
    loss = nn.functional.cross_entropy(network.eval()(wrong.pixels), wrong.labels).item()
    assert loss == pytest.approx(progression.best_loss, rel=1e-3)


def test_a_recipe_may_keep_the_last_weights_whatever_their_loss(tiny_images: Images) -> None:
    recipe = replace(TUTORIAL, arguments={"sigmoid": False}, learning_rate=0.1, epochs=4, kept="last")
    wrong = Images(tiny_images.pixels, (tiny_images.labels + 1) % 10)
    torch.manual_seed(0)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    progression = loop(Console(quiet=True), recipe, network, tiny_images, wrong, seed=0)
    losses = [epoch["validation_loss"] for epoch in progression.history]
    assert progression.best_loss == losses[-1] > min(losses)
    assert progression.best_weights is not None
    assert all(torch.equal(tensor, progression.best_weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("bfloat16_cpu", [True, False], ids=["bfloat16", "float32"], indirect=True)
@pytest.mark.usefixtures("bfloat16_cpu")
def test_equal_seeds_give_equal_weights_and_others_do_not(tiny_images: Images, fast_recipe: Recipe) -> None:
    dropout = replace(fast_recipe, arguments={**fast_recipe.arguments, "dropout": 0.2}, erase=0.5)
    assert equal([train(dropout, tiny_images, seed) for seed in (3, 3)])
    assert not equal([train(dropout, tiny_images, seed) for seed in (3, 4)])


@pytest.mark.parametrize("bfloat16_cpu", [True, False], ids=["bfloat16", "float32"], indirect=True)
@pytest.mark.usefixtures("bfloat16_cpu")
def test_both_precisions_learn_and_keep_float32_weights(tiny_images: Images, tiny_recipe: Recipe) -> None:
    progression = train(replace(tiny_recipe, precision="auto"), tiny_images)
    assert max(epoch["validation_accuracy"] for epoch in progression.history) > 0.9
    assert progression.best_weights is not None
    assert {tensor.dtype for tensor in progression.best_weights.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("bfloat16_cpu", [True, False], indirect=True)
def test_bfloat16_needs_a_recipe_that_allows_it_and_a_cpu_that_has_it(
    bfloat16_cpu: None, request: pytest.FixtureRequest, tiny_images: Images
) -> None:
    there = request.node.callspec.params["bfloat16_cpu"]
    cpu, mps = torch.device("cpu"), torch.device("mps")
    assert precision(replace(FAST, precision="auto"), cpu) == (torch.bfloat16 if there else torch.float32)
    assert precision(replace(FAST, precision="float32"), cpu) == torch.float32
    assert precision(replace(FAST, precision="auto"), mps) == torch.float32
    assert precision(TUTORIAL, cpu) == torch.float32


def test_training_leaves_the_images_alone(tiny_images: Images, fast_recipe: Recipe) -> None:
    before = tiny_images.pixels.clone()
    train(replace(fast_recipe, erase=0.5), tiny_images)
    assert torch.equal(tiny_images.pixels, before)


@pytest.mark.parametrize("learning_rate", [1e10, 1e30])
def test_a_loss_that_is_no_number_ends_the_run(learning_rate: float, tiny_images: Images, tiny_recipe: Recipe) -> None:
    recipe = replace(TUTORIAL, arguments={"sigmoid": False}, held_out=100, learning_rate=learning_rate)
    with pytest.raises(TrainingError, match=r"^the loss is (nan|inf) at step \d+ of 15, .*smaller --lr\.$"):
        train(recipe, tiny_images)


@pytest.mark.parametrize(("kept", "said"), [("lowest loss", "the best epoch so far"), ("last", "the last epoch")])
def test_ctrl_c_after_an_epoch_keeps_its_weights(
    kept: Literal["lowest loss", "last"], said: str, tiny_images: Images, tiny_recipe: Recipe
) -> None:
    stream = InterruptingStream("epoch  2/4")
    interrupted = train(replace(tiny_recipe, kept=kept), tiny_images, console=Console(file=stream))
    assert interrupted.interrupted
    assert len(interrupted.history) == 2
    losses = [epoch["validation_loss"] for epoch in interrupted.history]
    assert interrupted.best_loss == (losses[-1] if kept == "last" else min(losses))
    assert interrupted.best_weights is not None
    assert stream.getvalue().endswith(f"Interrupted: keeping {said}.\n")


def test_ctrl_c_before_the_first_epoch_ends_has_nothing_to_keep(tiny_images: Images, tiny_recipe: Recipe) -> None:
    stream = InterruptingStream("images/s")
    progression = train(tiny_recipe, tiny_images, console=Console(file=stream, force_terminal=True))
    assert progression.interrupted
    assert progression.best_weights is None


def test_an_epoch_is_one_line_that_announces_a_lower_loss(tiny_images: Images, tiny_recipe: Recipe) -> None:
    stream = io.StringIO()
    history = train(tiny_recipe, tiny_images, console=Console(file=stream)).history
    lines = stream.getvalue().splitlines()
    assert len(lines) == tiny_recipe.epochs
    assert "images/s" not in stream.getvalue()
    first, second = history[0]["validation_loss"], history[1]["validation_loss"]
    assert re.match(r"epoch  1/4 +[\d.]+ s  training loss [\d.]+  validation loss [\d.]+  accuracy [\d.]+%", lines[0])
    assert lines[0].endswith(f"  Validation loss decreased (inf --> {first:.4f}).  Saving model ...")
    assert lines[1].endswith(f"  Validation loss decreased ({first:.4f} --> {second:.4f}).  Saving model ...")


def test_on_a_terminal_a_bar_shows_loss_and_speed_and_time_left(tiny_images: Images, tiny_recipe: Recipe) -> None:
    stream = io.StringIO()
    train(tiny_recipe, tiny_images, console=Console(file=stream, force_terminal=True, width=100))
    assert re.search(r"epoch 1/4 .*loss .*[\d.]+.* images/s.*\d:\d\d:\d\d", stream.getvalue())


def test_a_teacher_teaches_beside_the_labels(tiny_images: Images) -> None:
    chosen = torch.tensor([3, 8, 5])
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(len(tiny_images), 10, generator=generator)
    taught = replace(tiny_images, answers=answers)

    def slope(share: float, logits: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        loss_of_each(replace(FAST, taught=share), logits, taught, chosen).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        return logits.grad

    logits = torch.randn(3, 10, generator=generator)
    own = functional.cross_entropy(logits, tiny_images.labels[chosen], reduction="none")
    torch.testing.assert_close(loss_of_each(FAST, logits, tiny_images, chosen), own)
    torch.testing.assert_close(loss_of_each(replace(FAST, taught=0.0), logits, taught, chosen), own)
    torch.testing.assert_close(slope(1.0, answers[chosen]), torch.zeros(3, 10), atol=1e-6, rtol=0)  # nothing to learn
    torch.testing.assert_close(slope(0.5, logits), (slope(0.0, logits) + slope(1.0, logits)) / 2)


def test_what_a_teacher_says_is_what_is_learned(tiny_images: Images, fast_recipe: Recipe) -> None:
    wrong = (tiny_images.labels + 1) % 10
    taught = replace(tiny_images, answers=20 * functional.one_hot(wrong, 10).float())
    torch.manual_seed(0)
    recipe = replace(fast_recipe, taught=1.0, epochs=4)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    held_out = Images(tiny_images.pixels, wrong)
    progression = loop(Console(quiet=True), recipe, network, taught.to(torch.device("cpu")), held_out, seed=0)
    assert max(epoch["validation_accuracy"] for epoch in progression.history) > 0.9
