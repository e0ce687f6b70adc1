"""The training loop: epochs of augmented batches, the best weights kept, what happens told to people."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from training import augment
from training.command import TrainingError
from training.data import Images
from training.recipes import Recipe

VALIDATION_BATCH_SIZE = 1_000  # images
STEPS_BETWEEN_LOOKS = 10  # at the loss: on a GPU each look waits for the device


@dataclass
class Progression:
    """What a run has reached so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    best_loss: float = math.inf  # the lowest validation loss
    best_weights: dict[str, Tensor] | None = None
    interrupted: bool = False
    seconds: float = 0.0  # of training and validation


def loop(
    console: Console, recipe: Recipe, network: nn.Module, training: Images, held_out: Images, seed: int
) -> Progression:
    """Trains `network` in place and keeps the weights of the epoch with the lowest validation loss.

    Ctrl-C ends it early. Raises TrainingError when the loss is no longer a number.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(training) / recipe.batch_size)
    optimizer = make_optimizer(recipe, network)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(recipe, steps * recipe.epochs))
    progression = Progression()
    start = time.perf_counter()
    try:
        for epoch in range(1, recipe.epochs + 1):
            with progress_bar(console, f"epoch {epoch}/{recipe.epochs}", steps, recipe.batch_size) as show:
                training_loss = train_epoch(recipe, network, training, optimizer, scheduler, generator, show)
            validation_loss, validation_accuracy = validate(network, held_out)
            progression.seconds = time.perf_counter() - start
            announcement = ""
            if validation_loss <= progression.best_loss:
                announcement = (
                    f"  Validation loss decreased ({progression.best_loss:.4f} --> {validation_loss:.4f}).  "
                    "Saving model ..."
                )
                progression.best_loss = validation_loss
                progression.best_weights = deepcopy(network.state_dict())
            progression.history.append(
                {
                    "training_loss": training_loss,
                    "validation_loss": validation_loss,
                    "validation_accuracy": validation_accuracy,
                    "seconds": progression.seconds,
                }
            )
            say(
                console,
                f"epoch {epoch:2}/{recipe.epochs}  {progression.seconds:6.1f} s  training loss {training_loss:.4f}  "
                f"validation loss {validation_loss:.4f}  accuracy {validation_accuracy:.2%}{announcement}",
            )
    except KeyboardInterrupt:
        progression.interrupted = True
        if progression.best_weights is not None:
            say(console, "Interrupted: keeping the best epoch so far.")
    return progression


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return torch.optim.SGD(
        [
            {"params": weights, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )


def schedule(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """The learning rate at a step as a share of the recipe's: constant, or a triangle that ends at 0."""
    if recipe.schedule == "constant":
        return lambda step: 1.0
    peak = max(1, round(recipe.warm_up * total_steps))
    return lambda step: min((step + 1) / peak, (total_steps - step) / (total_steps - peak + 1))


def train_epoch(
    recipe: Recipe,
    network: nn.Module,
    training: Images,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    show: Callable[[int, float], None],
) -> float:
    """One pass over `training`; the mean over the batches of the batch-mean loss. Raises TrainingError."""
    device = training.pixels.device
    dtype = precision(recipe, device)
    network.train()
    steps = math.ceil(len(training) / recipe.batch_size)
    losses = torch.zeros((), device=device)
    for step, batch in enumerate(training.shuffled_batches(recipe.batch_size, generator), start=1):
        pixels = augmented(recipe, batch.pixels, generator)  # uint8 (N, 1, 28, 28)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(pixels)
        loss = functional.cross_entropy(logits.float(), batch.labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        losses += loss.detach()
        if step % STEPS_BETWEEN_LOOKS == 0 or step == steps:
            value = losses.item() / step
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step} of {steps}, "
                    f"learning rate {scheduler.get_last_lr()[0]:.3g}; try a smaller --lr."
                )
            show(step, value)
    return value


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
def validate(network: nn.Module, held_out: Images) -> tuple[float, float]:
    """Cross-entropy and accuracy on the held-out images, in float32."""
    network.eval()
    batches = list(held_out.batches(VALIDATION_BATCH_SIZE))
    logits = torch.cat([network(batch.pixels) for batch in batches])
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


def say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_bar(console: Console, title: str, steps: int, batch_size: int) -> Iterator[Callable[[int, float], None]]:
    """On a terminal, a bar with loss, images a second and time left; the function it gives sets step and loss."""
    if not console.is_terminal:
        yield lambda step, loss: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[rate]:,.0f} images/s"),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=steps, loss=math.nan, rate=0.0)

        def show(step: int, loss: float) -> None:
            rate = step * batch_size / (time.perf_counter() - start)
            progress.update(task, completed=step, loss=loss, rate=rate)

        yield show
