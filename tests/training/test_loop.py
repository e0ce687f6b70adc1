import io
import re
import signal
from dataclasses import replace
from typing import Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from classifier.networks import ARCHITECTURES
from training.command import TrainingError
from training.data import Images, split
from training.distillation import distillation_loss
from training.loop import Run, RunState, train
from training.recipes import FAST, TUTORIAL, Recipe
from training.step import compute_dtype, loss_per_image


class InterruptingStream(io.StringIO):
    """A stream that sends SIGINT to this process the first time that a text is written to it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.text and self.text in text:
            self.text = ""
            signal.raise_signal(signal.SIGINT)
        return written


def make_run(
    recipe: Recipe, training: Images, validation: Images, seed: int = 0, stream: io.StringIO | None = None
) -> Run:
    torch.manual_seed(seed)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    return Run(recipe, network, training, validation, seed, Console(file=stream or io.StringIO()))


def train_on(images: Images, recipe: Recipe, seed: int = 0, stream: io.StringIO | None = None) -> RunState:
    return train(make_run(recipe, *split(images, recipe.validation_images, seed), seed, stream))


def equal(states: list[RunState]) -> bool:
    first, second = (state.best_weights for state in states)
    assert first
    assert second
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """PyTorch reports a CPU with or without bfloat16, as the parameter says."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.fixture
def fast_recipe(tiny_recipe: Recipe) -> Recipe:
    """FAST, as small as the tiny recipe."""
    return replace(FAST, arguments=tiny_recipe.arguments, validation_images=100, epochs=2, batch_size=50)


@pytest.fixture
def overfitting_recipe() -> Recipe:
    """With `wrongly_labelled` validation images, the validation loss rises as the training loss falls."""
    return replace(TUTORIAL, arguments={"sigmoid": False}, learning_rate=0.1, epochs=4)


def wrongly_labelled(images: Images) -> Images:
    return Images(images.pixels, (images.labels + 1) % 10)


def test_training_lowers_the_loss(tiny_images: Images, tiny_recipe: Recipe) -> None:
    state = train_on(tiny_images, tiny_recipe)
    assert len(state.history) == tiny_recipe.epochs
    assert state.history[-1]["training_loss"] < state.history[0]["training_loss"]
    assert max(epoch["validation_accuracy"] for epoch in state.history) > 0.9
    assert not state.interrupted


def test_the_weights_of_the_lowest_validation_loss_are_kept(tiny_images: Images, overfitting_recipe: Recipe) -> None:
    run = make_run(overfitting_recipe, tiny_images, wrongly_labelled(tiny_images))
    state = train(run)
    losses = [epoch["validation_loss"] for epoch in state.history]
    assert state.best_loss == min(losses) < losses[-1]
    assert state.best_weights is not None
    run.network.load_state_dict(state.best_weights)
    logits = run.network.eval()(run.validation.pixels)
    loss = functional.cross_entropy(logits, run.validation.labels).item()
    assert loss == pytest.approx(state.best_loss, rel=1e-3)


def test_a_recipe_may_keep_the_last_weights_even_if_their_loss_is_higher(
    tiny_images: Images, overfitting_recipe: Recipe
) -> None:
    run = make_run(replace(overfitting_recipe, keep="last"), tiny_images, wrongly_labelled(tiny_images))
    state = train(run)
    losses = [epoch["validation_loss"] for epoch in state.history]
    assert state.best_loss == losses[-1] > min(losses)
    assert state.best_weights is not None
    assert all(torch.equal(tensor, state.best_weights[name]) for name, tensor in run.network.state_dict().items())


@pytest.mark.parametrize("bfloat16_cpu", [True, False], ids=["bfloat16", "float32"], indirect=True)
@pytest.mark.usefixtures("bfloat16_cpu")
def test_quick_validation_is_from_one_view_until_the_last_epoch(tiny_images: Images, fast_recipe: Recipe) -> None:
    recipe = replace(fast_recipe, arguments=fast_recipe.arguments | {"tta_views": 6}, keep="last")
    full, quick = (train_on(tiny_images, replace(recipe, keep=keep)) for keep in ("best", "last"))
    assert full.history[0]["validation_loss"] != quick.history[0]["validation_loss"]
    assert full.history[-1]["validation_loss"] == quick.history[-1]["validation_loss"] == quick.best_loss


def test_equal_seeds_give_equal_weights_and_others_do_not(tiny_images: Images, fast_recipe: Recipe) -> None:
    recipe = replace(fast_recipe, arguments={**fast_recipe.arguments, "dropout": 0.2}, erase_probability=0.5)
    assert equal([train_on(tiny_images, recipe, seed) for seed in (3, 3)])
    assert not equal([train_on(tiny_images, recipe, seed) for seed in (3, 4)])


@pytest.mark.parametrize("bfloat16_cpu", [True, False], ids=["bfloat16", "float32"], indirect=True)
@pytest.mark.usefixtures("bfloat16_cpu")
def test_both_precisions_learn_and_keep_float32_weights(tiny_images: Images, tiny_recipe: Recipe) -> None:
    state = train_on(tiny_images, replace(tiny_recipe, precision="auto"))
    assert max(epoch["validation_accuracy"] for epoch in state.history) > 0.9
    assert state.best_weights is not None
    assert {tensor.dtype for tensor in state.best_weights.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("bfloat16_cpu", [True, False], indirect=True)
def test_bfloat16_needs_a_recipe_that_allows_it_and_a_cpu_that_supports_it(
    bfloat16_cpu: None, request: pytest.FixtureRequest
) -> None:
    supported = request.node.callspec.params["bfloat16_cpu"]
    cpu, mps = torch.device("cpu"), torch.device("mps")
    assert compute_dtype(replace(FAST, precision="auto"), cpu) == (torch.bfloat16 if supported else torch.float32)
    assert compute_dtype(replace(FAST, precision="float32"), cpu) == torch.float32
    assert compute_dtype(replace(FAST, precision="auto"), mps) == torch.float32
    assert compute_dtype(TUTORIAL, cpu) == torch.float32


def test_training_leaves_the_images_unchanged(tiny_images: Images, fast_recipe: Recipe) -> None:
    before = tiny_images.pixels.clone()
    train_on(tiny_images, replace(fast_recipe, erase_probability=0.5))
    assert torch.equal(tiny_images.pixels, before)


@pytest.mark.parametrize("learning_rate", [1e10, 1e30])
def test_a_loss_that_is_not_finite_ends_the_run(learning_rate: float, tiny_images: Images) -> None:
    recipe = replace(TUTORIAL, arguments={"sigmoid": False}, validation_images=100, learning_rate=learning_rate)
    with pytest.raises(TrainingError, match=r"^the loss is (nan|inf) at step \d+ of 15, .*smaller --lr\.$"):
        train_on(tiny_images, recipe)


@pytest.mark.parametrize(("keep", "kept"), [("best", "the best epoch so far"), ("last", "the last epoch")])
def test_ctrl_c_after_an_epoch_keeps_its_weights(
    keep: Literal["best", "last"], kept: str, tiny_images: Images, tiny_recipe: Recipe
) -> None:
    stream = InterruptingStream("epoch  2/4")
    state = train_on(tiny_images, replace(tiny_recipe, keep=keep), stream=stream)
    assert state.interrupted
    assert len(state.history) == 2
    losses = [epoch["validation_loss"] for epoch in state.history]
    assert state.best_loss == (losses[-1] if keep == "last" else min(losses))
    assert state.best_weights is not None
    assert stream.getvalue().endswith(f"Interrupted: keeping {kept}.\n")


def test_ctrl_c_in_the_first_epoch_keeps_no_weights(tiny_images: Images, tiny_recipe: Recipe) -> None:
    run = make_run(tiny_recipe, *split(tiny_images, 100, 0))
    state = train(replace(run, console=Console(file=InterruptingStream("images/s"), force_terminal=True)))
    assert state.interrupted
    assert state.best_weights is None


def test_an_epoch_is_one_line_that_announces_a_lower_loss(tiny_images: Images, tiny_recipe: Recipe) -> None:
    stream = io.StringIO()
    history = train_on(tiny_images, replace(tiny_recipe, keep="best"), stream=stream).history
    lines = stream.getvalue().splitlines()
    assert len(lines) == tiny_recipe.epochs
    assert "images/s" not in stream.getvalue()
    first, second = history[0]["validation_loss"], history[1]["validation_loss"]
    assert re.match(r"epoch  1/4 +[\d.]+ s  training loss [\d.]+  validation loss [\d.]+  accuracy [\d.]+%", lines[0])
    assert lines[0].endswith(f"  Validation loss decreased (inf --> {first:.4f}).  Keeping these weights.")
    assert lines[1].endswith(f"  Validation loss decreased ({first:.4f} --> {second:.4f}).  Keeping these weights.")


def test_a_terminal_has_a_progress_bar_with_loss_and_speed_and_remaining_time(
    tiny_images: Images, tiny_recipe: Recipe
) -> None:
    stream = io.StringIO()
    run = make_run(tiny_recipe, *split(tiny_images, 100, 0))
    train(replace(run, console=Console(file=stream, force_terminal=True, width=100)))
    assert re.search(r"epoch 1/4 .*loss .*[\d.]+.* images/s.*\d:\d\d:\d\d", stream.getvalue())


def test_the_loss_mixes_labels_and_teacher_by_the_distillation_weight(tiny_images: Images) -> None:
    chosen = torch.tensor([3, 8, 5])
    generator = torch.Generator().manual_seed(0)
    teacher_logits = torch.randn(len(tiny_images), 10, generator=generator)
    logits = torch.randn(3, 10, generator=generator)

    def loss(weight: float, images: Images) -> Tensor:
        return loss_per_image(replace(FAST, distillation_weight=weight), logits, images, chosen)

    with_teacher = replace(tiny_images, teacher_logits=teacher_logits)
    labels_only = functional.cross_entropy(logits, tiny_images.labels[chosen], reduction="none")
    torch.testing.assert_close(loss(0.9, tiny_images), labels_only)
    torch.testing.assert_close(loss(0.0, with_teacher), labels_only)
    torch.testing.assert_close(loss(1.0, with_teacher), distillation_loss(logits, teacher_logits[chosen], 2.0))
    torch.testing.assert_close(loss(0.5, with_teacher), (loss(0.0, with_teacher) + loss(1.0, with_teacher)) / 2)


def test_a_network_learns_the_classes_of_its_teacher(tiny_images: Images, fast_recipe: Recipe) -> None:
    validation = wrongly_labelled(tiny_images)
    teacher_logits = 20 * functional.one_hot(validation.labels, 10).float()
    training = replace(tiny_images, teacher_logits=teacher_logits).to(torch.device("cpu"))
    state = train(make_run(replace(fast_recipe, distillation_weight=1.0, epochs=4), training, validation))
    assert max(epoch["validation_accuracy"] for epoch in state.history) > 0.9
