"""The training loop: epochs of augmented batches, the best weights kept, what happens told to people."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from training.command import TrainingError
from training.data import Images
from training.distributed import ALONE, Ranks
from training.optimizer import make_optimizer, set_learning_rate
from training.progress import progress_bar, say
from training.pruning import Pruning
from training.recipes import Recipe
from training.resume import SideFile
from training.step import Step, precision

BATCH_SIZE, CPU_BATCH_SIZE = 2_000, 250  # images, to validate; what a layer makes of more leaves a CPU's cache
STEPS_BETWEEN_LOOKS = 10  # at the loss: on a GPU each look waits for the device


@dataclass
class Epoch:
    """What an epoch shows, by the seed and its number alone, so that a resumed run repeats it."""

    number: int  # from 1
    order: Tensor  # int64 [M], the images in every process
    weights: Tensor  # float32 [N], what each image counts


def plan(pruning: Pruning, seed: int, number: int, rank: int = 0) -> Epoch:
    """The epoch of that number. Seeds this process's augmentation and dropout for it."""
    order, weights = pruning.choose(number, torch.Generator().manual_seed(derived(seed, number, 0)))
    torch.manual_seed(derived(seed, number, 1 + rank))
    return Epoch(number, order, weights)


def derived(*numbers: int) -> int:
    """A seed that follows from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Progression:
    """What a run has reached so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    best_loss: float = math.inf  # the validation loss of the weights that are kept
    best_weights: dict[str, Tensor] | None = None
    interrupted: bool = False
    seconds: float = 0.0  # of training and validation
    warm_up: float = 0.0  # seconds before them, in which a GPU is made ready


def loop(
    console: Console,
    recipe: Recipe,
    network: nn.Module,
    training: Images,
    held_out: Images,
    seed: int,
    side_file: SideFile | None = None,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> Progression:
    """Trains `network` in place and keeps the weights of the epoch that the recipe says.

    All that it will need to go on is in `side_file` after every epoch; on a GPU, where an epoch may be shorter than a
    write, only so often that writing takes a small share of the time. With `resume` it goes on from there. What is
    random in an epoch follows from the seed and its number alone. Ctrl-C ends it early. Raises TrainingError when the
    loss is no longer a number, CheckpointError when the side file cannot be read or written.
    """
    optimizer = make_optimizer(recipe, network)
    pruning = Pruning(recipe, len(training), training.labels.device)
    progression = Progression()
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "pruning": pruning}
    if side_file and resume:
        state = side_file.read()
        for name, part in parts.items():
            part.load_state_dict(state[name])
        progression = Progression(**state["progression"])

    def remember() -> None:
        always = not training.pixels.is_cuda or len(progression.history) == recipe.epochs
        if side_file and ranks.leads and (always or side_file.is_due()):
            states = {name: part.state_dict() for name, part in parts.items()}
            side_file.write(states | {"progression": vars(progression)})

    begin = time.perf_counter()
    step = Step(recipe, ranks.parallel(network), training, optimizer, pruning.losses)
    if ranks.count == 1 and step.record():
        validate(recipe, network, held_out)
        progression.warm_up = time.perf_counter() - begin
        say(console, f"Warm-up: {progression.warm_up:.1f} s.")
    start = time.perf_counter() - progression.seconds
    try:
        remember()
        for number in range(len(progression.history) + 1, recipe.epochs + 1):
            epoch = plan(pruning, seed, number, ranks.rank)
            with progress_bar(console, f"epoch {number}/{recipe.epochs}", len(epoch.order)) as show:
                training_loss = train_epoch(recipe, epoch, step, pruning, show, ranks)
            if ranks.leads:
                keep(console, recipe, epoch, network, held_out, progression, training_loss, start)
            remember()
    except KeyboardInterrupt:
        progression.interrupted = True
        if progression.best_weights is not None:
            say(
                console,
                f"Interrupted: keeping {'the last epoch' if recipe.kept == 'last' else 'the best epoch so far'}.",
            )
    return progression


def keep(
    console: Console,
    recipe: Recipe,
    epoch: Epoch,
    network: nn.Module,
    held_out: Images,
    progression: Progression,
    training_loss: float,
    start: float,
) -> None:
    """Validates after an epoch, keeps its weights if they are to be kept, and says so in one line."""
    validation_loss, validation_accuracy = validate(recipe, network, held_out)
    progression.seconds = time.perf_counter() - start
    announcement = ""
    if validation_loss <= progression.best_loss and recipe.kept == "lowest loss":
        announcement = (
            f"  Validation loss decreased ({progression.best_loss:.4f} --> {validation_loss:.4f}).  Saving model ..."
        )
    if validation_loss <= progression.best_loss or recipe.kept == "last":
        progression.best_loss = validation_loss
        progression.best_weights = deepcopy(network.state_dict())
    progression.history.append(
        {
            "images": len(epoch.order),
            "training_loss": training_loss,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "seconds": progression.seconds,
        }
    )
    say(
        console,
        f"epoch {epoch.number:2}/{recipe.epochs}  {progression.seconds:6.1f} s  "
        f"training loss {training_loss:.4f}  validation loss {validation_loss:.4f}  "
        f"accuracy {validation_accuracy:.2%}{announcement}",
    )


def train_epoch(
    recipe: Recipe,
    epoch: Epoch,
    step: Step,
    pruning: Pruning,
    show: Callable[[int, float], None],
    ranks: Ranks = ALONE,
) -> float:
    """One pass over what `epoch` shows; the mean over the batches of the batch-mean loss. Raises TrainingError.

    `show` is told now and then how many images are done and the loss so far.
    """
    step.network.train()
    before = pruning.losses.clone()
    batches = epoch.order.tensor_split(math.ceil(len(epoch.order) / recipe.batch_size))  # all of about one size
    losses = torch.zeros((), device=pruning.losses.device)
    for number, batch in enumerate(batches, start=1):
        set_learning_rate(recipe, step.optimizer, (epoch.number - 1 + (number - 0.5) / len(batches)) / recipe.epochs)
        mine = ranks.share(batch)
        losses += step(mine, epoch.weights[mine] * (ranks.count / len(batch)))  # of all processes, the batch's mean
        if number % STEPS_BETWEEN_LOOKS == 0 or number == len(batches):
            value = ranks.mean(losses) / number
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {number} of {len(batches)}, "
                    f"learning rate {step.optimizer.param_groups[0]['lr']:.3g}; try a smaller --lr."
                )
            show(number * len(batch), value)
    ranks.merge(before, pruning.losses)
    return value


@torch.inference_mode()
def validate(recipe: Recipe, network: nn.Module, held_out: Images) -> tuple[float, float]:
    """Cross-entropy and accuracy on the held-out images, in the precision that the recipe trains in."""
    device = held_out.pixels.device
    dtype = precision(recipe, device)
    size = CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE
    network.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = torch.cat([network(batch.pixels) for batch in held_out.batches(size)]).float()
    loss = functional.cross_entropy(logits, held_out.labels).item()
    return loss, (logits.argmax(dim=1) == held_out.labels).float().mean().item()
