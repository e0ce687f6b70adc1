"""The training loop: epochs of training and validation, the weights to save, the checkpoint to resume from."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from classifier.networks import ConvNet
from training.command import TrainingError
from training.data import Images
from training.distributed import SINGLE_PROCESS, Processes
from training.optimizer import make_optimizer, set_learning_rate
from training.photos import Photos, with_pseudo_labels
from training.progress import print_line, progress_bar
from training.pruning import Pruning
from training.recipes import Recipe
from training.resume import ResumeFile
from training.step import Step, compute_dtype

VALIDATION_BATCH, CPU_VALIDATION_BATCH = 2_000, 250  # images; activations of more do not fit a CPU's cache
STEPS_BETWEEN_LOSS_CHECKS = 10  # each check waits for the GPU


@dataclass(frozen=True)
class Run:
    """A training run: what it trains, on which images, and where it prints and resumes."""

    recipe: Recipe
    network: nn.Module  # trained in place; on the device of the images
    training: Images
    validation: Images
    seed: int = 0
    console: Console = field(default_factory=lambda: Console(quiet=True))
    dist: Processes = SINGLE_PROCESS
    resume_file: ResumeFile | None = None
    saved: dict[str, Any] | None = None  # continue from this state, of a resume file


@dataclass
class RunState:
    """What a run has reached so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one entry per epoch
    best_loss: float = math.inf  # validation loss of `best_weights`
    best_weights: dict[str, Tensor] | None = None  # those to save, of the best or the last epoch as the recipe says
    interrupted: bool = False
    seconds: float = 0.0  # of training and validation
    warmup_seconds: float = 0.0  # before them, to capture the step on a GPU


@dataclass(frozen=True)
class Epoch:
    """The images of an epoch. They follow from the seed and the epoch's number, so a resumed run repeats them."""

    number: int  # from 1
    order: Tensor  # int64 [M], the images used, the same in every process
    weights: Tensor  # float32 [N], of all images


def plan_epoch(pruning: Pruning, seed: int, number: int, rank: int = 0) -> Epoch:
    """Chooses the images of an epoch and seeds augmentation and dropout of this process for it."""
    order, weights = pruning.choose(number, torch.Generator().manual_seed(derive_seed(seed, number, 0)))
    torch.manual_seed(derive_seed(seed, number, 1 + rank))
    return Epoch(number, order, weights)


def derive_seed(*numbers: int) -> int:
    """A seed from 0 to 2**63 - 1 that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def train(run: Run) -> RunState:
    """Trains `run.network` in place; returns the history and the weights to save. Ctrl-C ends training early.

    The resume file is written after every epoch; on a GPU, where an epoch can be shorter than a write, less often.
    Raises TrainingError if the loss is not finite, CheckpointError if the resume file cannot be written.
    """
    optimizer = make_optimizer(run.recipe, run.network)
    pruning = Pruning(run.recipe, len(run.training), run.training.labels.device)
    parts: dict[str, Any] = {"network": run.network, "optimizer": optimizer, "pruning": pruning}
    average = make_average(run.recipe, run.network)
    if average:
        parts["average"] = average
    state = RunState()
    if run.saved:
        for name, part in parts.items():
            part.load_state_dict(run.saved[name])
        state = RunState(**run.saved["run_state"])

    def write_resume_file() -> None:
        always = not run.training.pixels.is_cuda or len(state.history) == run.recipe.epochs
        if run.resume_file and run.dist.is_main and (always or run.resume_file.is_due()):
            states = {name: part.state_dict() for name, part in parts.items()}
            run.resume_file.write(states | {"run_state": vars(state)})

    start = time.perf_counter()
    step = Step(run.recipe, run.dist.data_parallel(run.network), run.training, optimizer, pruning.losses)
    if run.dist.count > 1:
        step.settle()
    elif step.capture():
        validate(run.recipe, run.network, run.validation)
        state.warmup_seconds = time.perf_counter() - start
        print_line(run.console, f"Warm-up: {state.warmup_seconds:.1f} s.")
    start = time.perf_counter() - state.seconds
    try:
        write_resume_file()
        for number in range(len(state.history) + 1, run.recipe.epochs + 1):
            if isinstance(run.training, Photos) and number > run.recipe.epochs - run.recipe.pseudo_label_epochs:
                labelled = with_pseudo_labels(run.training, average.module if average else run.network)
                step.training = replace(labelled, learned=run.dist.broadcast(labelled.learned))
            epoch = plan_epoch(pruning, run.seed, number, run.dist.rank)
            with progress_bar(run.console, f"epoch {number}/{run.recipe.epochs}", len(epoch.order)) as update_bar:
                training_loss = train_epoch(run, epoch, step, pruning, update_bar, average)
            if run.dist.is_main:
                network = average.module if average else run.network
                end_epoch(run, network, state, epoch, training_loss, start)
            write_resume_file()
    except KeyboardInterrupt:
        state.interrupted = True
        if state.best_weights is not None:
            epoch_kept = "the last epoch" if run.recipe.keep == "last" else "the best epoch so far"
            print_line(run.console, f"Interrupted: keeping {epoch_kept}.")
    return state


def make_average(recipe: Recipe, network: nn.Module) -> AveragedModel | None:
    """The exponential moving average of the weights (Polyak and Juditsky 1992), if the recipe has one."""
    if not recipe.average_decay:
        return None
    average = get_ema_multi_avg_fn(recipe.average_decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def train_epoch(
    run: Run,
    epoch: Epoch,
    step: Step,
    pruning: Pruning,
    report_progress: Callable[[int, float], None],
    average: AveragedModel | None = None,
) -> float:
    """Trains on the images of `epoch`; returns the mean loss of its batches. Raises TrainingError.

    `average`, if given, follows the weights of the network after each step.

    Calls `report_progress` every few steps with the number of images done and the mean loss so far.
    """
    step.network.train()
    before = pruning.losses.clone()
    batches = epoch.order.tensor_split(math.ceil(len(epoch.order) / run.recipe.batch_size))  # of nearly equal size
    losses = torch.zeros((), device=pruning.losses.device)
    for number, batch in enumerate(batches, start=1):
        progress = (epoch.number - 1 + (number - 0.5) / len(batches)) / run.recipe.epochs
        set_learning_rate(run.recipe, step.optimizer, progress)
        shard = run.dist.shard(batch)
        losses += step(shard, epoch.weights[shard] * (run.dist.count / len(batch)))  # averages to the mean of the batch
        if average:
            average.update_parameters(run.network)
        if number % STEPS_BETWEEN_LOSS_CHECKS == 0 or number == len(batches):
            mean_loss = run.dist.mean(losses) / number
            if not math.isfinite(mean_loss):
                raise TrainingError(
                    f"the loss is {mean_loss} at step {number} of {len(batches)}, "
                    f"learning rate {step.optimizer.param_groups[0]['lr']:.3g}; try a smaller --lr."
                )
            report_progress(number * len(batch), mean_loss)
    run.dist.merge(before, pruning.losses)
    return mean_loss


def end_epoch(run: Run, network: nn.Module, state: RunState, epoch: Epoch, training_loss: float, start: float) -> None:
    """Validates `network`, updates `state` and prints the epoch in one line."""
    quick = run.recipe.keep == "last" and epoch.number < run.recipe.epochs  # it chooses nothing
    validation_loss, validation_accuracy = validate(run.recipe, network, run.validation, quick)
    state.seconds = time.perf_counter() - start
    improvement = ""
    if validation_loss <= state.best_loss and run.recipe.keep == "best":
        improvement = (
            f"  Validation loss decreased ({state.best_loss:.4f} --> {validation_loss:.4f}).  Keeping these weights."
        )
    if validation_loss <= state.best_loss or run.recipe.keep == "last":
        state.best_loss = validation_loss
        state.best_weights = deepcopy(network.state_dict())
    state.history.append(
        {
            "images": len(epoch.order),
            "training_loss": training_loss,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "seconds": state.seconds,
        }
    )
    print_line(
        run.console,
        f"epoch {epoch.number:2}/{run.recipe.epochs}  {state.seconds:6.1f} s  "
        f"training loss {training_loss:.4f}  validation loss {validation_loss:.4f}  "
        f"accuracy {validation_accuracy:.2%}{improvement}",
    )


@torch.inference_mode()
def validate(recipe: Recipe, network: nn.Module, images: Images, quick: bool = False) -> tuple[float, float]:
    """Cross-entropy in nats and accuracy on `images`, in the precision of the recipe; `quick`: from a single view."""
    device = images.pixels.device
    dtype = compute_dtype(recipe, device)
    size = CPU_VALIDATION_BATCH if device.type == "cpu" else VALIDATION_BATCH
    forward = network.eval().one_view if quick and isinstance(network, ConvNet) else network.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = torch.cat([forward(batch.pixels) for batch in images.batches(size)]).float()
    return images.losses(logits).mean().item(), images.is_right(logits.argmax(dim=1)).float().mean().item()
