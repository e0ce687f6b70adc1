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

from training import augment
from training.command import TrainingError
from training.data import Images
from training.distributed import ALONE, Ranks
from training.optimizer import make_optimizer, set_learning_rate
from training.progress import progress_bar, say
from training.pruning import Pruning
from training.recipes import Recipe
from training.resume import SideFile

VALIDATION_BATCH_SIZE = 250  # images; what a layer makes of more leaves the processor's cache
STEPS_BETWEEN_LOOKS = 10  # at the loss: on a GPU each look waits for the device


@dataclass
class Epoch:
    """What an epoch shows, by the seed and its number alone, so that a resumed run repeats it."""

    number: int  # from 1
    order: Tensor  # int64 [M], the images in every process
    weights: Tensor  # float32 [N], what each image counts
    generator: torch.Generator  # of this process's augmentation; dropout draws from it, too


def plan(pruning: Pruning, seed: int, number: int, rank: int = 0) -> Epoch:
    """The epoch of that number."""
    order, weights = pruning.choose(number, torch.Generator().manual_seed(derived(seed, number, 0)))
    return Epoch(number, order, weights, torch.manual_seed(derived(seed, number, 1 + rank)))


def derived(*numbers: int) -> int:
    """A seed that follows from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Progression:
    """What a run has reached so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    best_loss: float = math.inf  # the lowest validation loss
    best_weights: dict[str, Tensor] | None = None
    interrupted: bool = False
    seconds: float = 0.0  # of training and validation


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
    """Trains `network` in place and keeps the weights of the epoch with the lowest validation loss.

    All that it will need to go on is in `side_file` after every epoch; with `resume` it goes on from there. What is
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
        if side_file and ranks.leads:
            states = {name: part.state_dict() for name, part in parts.items()}
            side_file.write(states | {"progression": vars(progression)})

    parallel = ranks.parallel(network)
    start = time.perf_counter() - progression.seconds
    try:
        remember()
        for number in range(len(progression.history) + 1, recipe.epochs + 1):
            epoch = plan(pruning, seed, number, ranks.rank)
            with progress_bar(console, f"epoch {number}/{recipe.epochs}", len(epoch.order)) as show:
                training_loss = train_epoch(recipe, epoch, parallel, training, optimizer, pruning, show, ranks)
            if ranks.leads:
                keep(console, recipe, epoch, network, held_out, progression, training_loss, start)
            remember()
    except KeyboardInterrupt:
        progression.interrupted = True
        if progression.best_weights is not None:
            say(console, "Interrupted: keeping the best epoch so far.")
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
    """Validates after an epoch, keeps the weights if they are the best so far, and says so in one line."""
    validation_loss, validation_accuracy = validate(recipe, network, held_out)
    progression.seconds = time.perf_counter() - start
    announcement = ""
    if validation_loss <= progression.best_loss:
        announcement = (
            f"  Validation loss decreased ({progression.best_loss:.4f} --> {validation_loss:.4f}).  Saving model ..."
        )
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
    network: nn.Module,
    training: Images,
    optimizer: torch.optim.Optimizer,
    pruning: Pruning,
    show: Callable[[int, float], None],
    ranks: Ranks = ALONE,
) -> float:
    """One pass over what `epoch` shows; the mean over the batches of the batch-mean loss. Raises TrainingError.

    `show` is told now and then how many images are done and the loss so far.
    """
    device = training.pixels.device
    dtype = precision(recipe, device)
    network.train()
    before = pruning.losses.clone()
    batches = epoch.order.tensor_split(math.ceil(len(epoch.order) / recipe.batch_size))  # all of about one size
    losses = torch.zeros((), device=device)
    for step, batch in enumerate(batches, start=1):
        set_learning_rate(recipe, optimizer, (epoch.number - 1 + (step - 0.5) / len(batches)) / recipe.epochs)
        mine = ranks.share(batch)
        pixels = augmented(recipe, training.pixels[mine], epoch.generator)  # uint8 (N, 1, 28, 28)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(pixels)
        each = loss_of_each(recipe, logits.float(), training, mine)
        loss = (each * epoch.weights[mine]).sum() * (ranks.count / len(batch))  # of all processes, the batch's mean
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        pruning.losses[mine] = each.detach()
        losses += loss.detach()
        if step % STEPS_BETWEEN_LOOKS == 0 or step == len(batches):
            value = ranks.mean(losses) / step
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step} of {len(batches)}, "
                    f"learning rate {optimizer.param_groups[0]['lr']:.3g}; try a smaller --lr."
                )
            show(step * len(batch), value)
    ranks.merge(before, pruning.losses)
    return value


def loss_of_each(recipe: Recipe, logits: Tensor, training: Images, chosen: Tensor) -> Tensor:
    """Cross-entropy, float32 [N], with the labels of the chosen images, and with their teacher's answers if they have
    one, softened on both sides (distillation, Hinton et al. 2015)."""
    labels = training.labels[chosen]
    each = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="none")
    if training.answers is None:
        return each
    softened = (training.answers[chosen] / recipe.softness).softmax(dim=1)
    taught = functional.cross_entropy(logits / recipe.softness, softened, reduction="none") * recipe.softness**2
    return recipe.taught * taught + (1 - recipe.taught) * each


def augmented(recipe: Recipe, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The batch, uint8 [N,1,28,28], as the recipe shows it to the network."""
    if recipe.flip:
        pixels = augment.flip(pixels, generator)
    if recipe.shift:
        pixels = augment.shift(pixels, generator, recipe.shift)
    if recipe.erase:
        pixels = augment.erase(pixels, generator, recipe.erase)
    return pixels


@torch.inference_mode()
def validate(recipe: Recipe, network: nn.Module, held_out: Images) -> tuple[float, float]:
    """Cross-entropy and accuracy on the held-out images, in the precision that the recipe trains in."""
    device = held_out.pixels.device
    dtype = precision(recipe, device)
    network.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = torch.cat([network(batch.pixels) for batch in held_out.batches(VALIDATION_BATCH_SIZE)]).float()
    loss = functional.cross_entropy(logits, held_out.labels).item()
    return loss, (logits.argmax(dim=1) == held_out.labels).float().mean().item()


def precision(recipe: Recipe, device: torch.device) -> torch.dtype:
    """bfloat16 for a recipe that allows it where the hardware multiplies it natively, else float32."""
    if recipe.precision == "float32" or device.type == "mps":
        return torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU reports AVX-512-BF16 or AMX; without them bfloat16 is emulated, and slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
