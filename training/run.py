"""Trains a classifier: `python -m training.run [--recipe NAME]`.

The story, top to bottom: recipe -> data -> model -> loop -> calibrate -> evaluate -> save.
"""

import argparse
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training import data
from training.calibrate import fit_temperature
from training.classifier.checkpoint import Checkpoint, save
from training.classifier.classifier import Classifier, find_device
from training.classifier.model import ARCHITECTURES
from training.command import CHECKPOINT, INTERRUPTED, Parser, TrainingError, add_device_and_data, execute
from training.evaluate import all_logits, evaluate, print_table
from training.loop import Progression, loop, precision, say
from training.recipes import RECIPES, Recipe

GRID = 20  # images on the sample grid


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return execute(lambda: train(options))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m training.run", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="fast")
    parser.add_argument("--epochs", type=positive(int), metavar="N", help="instead of the recipe's")
    parser.add_argument("--batch-size", type=positive(int), metavar="N", help="instead of the recipe's")
    parser.add_argument("--lr", type=positive(float), metavar="X", help="learning rate instead of the recipe's")
    parser.add_argument("--seed", type=seed, default=0, metavar="N")
    add_device_and_data(parser)
    parser.add_argument("--output", type=Path, default=CHECKPOINT, metavar="FILE")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write sample grid, curves and confusion matrix")
    return parser.parse_args(arguments)


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return value

    number.__name__ = kind.__name__  # argparse names it when `kind` refuses the text
    return number


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 2**63 - 1")
    return value


def train(options: argparse.Namespace) -> dict[str, Any]:
    console = Console(emoji=False)
    device = find_device(options.device)
    recipe = customise(RECIPES[options.recipe], options)
    check_writable("--output", options.output)
    if options.report:
        check_writable("--report", options.report / "samples.png")

    training_images, test_images = data.load(options.data_dir)
    training_images, held_out = data.split(training_images.to(device), recipe.held_out, options.seed)

    torch.manual_seed(options.seed)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments).to(device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    say(
        console,
        f"Recipe {recipe.name}, seed {options.seed}: {recipe.architecture} with {parameters:,} parameters "
        f"in {str(precision(recipe, device)).removeprefix('torch.')} on {device.type}; "
        f"{len(training_images):,} images to train on, {len(held_out):,} held out.",
    )

    if options.report:
        from training import report  # matplotlib takes a second to import

        first = next(training_images.batches(GRID))
        report.write(options.report, {"samples.png": report.samples(first.pixels, first.labels)})

    progression = loop(console, recipe, network, training_images, held_out, options.seed)
    with uninterrupted():
        return finish(console, options, recipe, device, progression, held_out, test_images)


def finish(
    console: Console,
    options: argparse.Namespace,
    recipe: Recipe,
    device: torch.device,
    progression: Progression,
    held_out: data.Images,
    test_images: data.Images,
) -> dict[str, Any]:
    """Calibrates, evaluates and saves the best of the run; what it reached, as the last line says it."""
    if progression.best_weights is None and progression.interrupted:
        raise KeyboardInterrupt
    if progression.best_weights is None or not math.isfinite(progression.best_loss):
        raise TrainingError("the validation loss was not a number after any epoch; try a smaller --lr.")

    checkpoint = Checkpoint(
        recipe.architecture,
        recipe.arguments,
        progression.best_weights,
        metrics={"validation_loss": progression.best_loss},
        training=provenance(recipe, options, device, progression),
    )
    checkpoint = calibrate(checkpoint, held_out, device)
    evaluation = evaluate(Classifier(checkpoint, device), test_images)
    checkpoint.metrics.update(
        test_loss=evaluation.loss, test_accuracy=evaluation.accuracy, ece=evaluation.ece, nll=evaluation.nll
    )
    save(checkpoint, options.output)

    print_table(console, evaluation)
    if options.report:
        from training import report

        report.write(
            options.report,
            {
                "curves.png": report.curves(progression.history),
                "confusion.png": report.confusion(evaluation.confusion),
            },
        )
    python = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else sys.executable
    serve = shlex.join((python, "-m", "service", "--model", str(options.output)))
    say(console, f"Saved {options.output}. Serve it: {serve}")
    return {
        "recipe": recipe.name,
        "seed": options.seed,
        "device": device.type,
        "epochs": len(progression.history),
        "seconds": round(progression.seconds, 2),
        "parameters": checkpoint.parameters,
        "validation_loss": progression.best_loss,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "ece": evaluation.ece,
        "output": str(options.output),
        "exit_code": INTERRUPTED if progression.interrupted else 0,
    }


def customise(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    return replace(
        recipe,
        epochs=options.epochs or recipe.epochs,
        batch_size=options.batch_size or recipe.batch_size,
        learning_rate=options.lr or recipe.learning_rate,
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: what is left to do takes seconds, and the run would be lost."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def calibrate(checkpoint: Checkpoint, held_out: data.Images, device: torch.device) -> Checkpoint:
    """The checkpoint with its temperature, fitted on images it was not trained on."""
    logits = all_logits(Classifier(checkpoint, device), held_out)
    return replace(checkpoint, calibration={"temperature": fit_temperature(logits, held_out.labels)})


def check_writable(flag: str, output: Path) -> None:
    """Finds out before the training whether its result can be written. Raises TrainingError."""
    try:
        if output.exists() and not output.is_file():
            raise TrainingError(f"{flag} {output} is a folder or a device; name a file.")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise TrainingError(f"{flag} {output} cannot be written: {error.strerror}.") from error


def provenance(
    recipe: Recipe, options: argparse.Namespace, device: torch.device, progression: Progression
) -> dict[str, Any]:
    """Where a checkpoint comes from: all that another run needs to make it again."""
    return {
        "recipe": recipe.name,
        "settings": {name: value for name, value in vars(recipe).items() if name != "name"},
        "seed": options.seed,
        "epochs": len(progression.history),
        "seconds": progression.seconds,
        "history": progression.history,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or device.type,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "data": data.SHA256,
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the project's own checkout, or "unknown" outside of one."""
    if not shutil.which("git"):
        return "unknown"
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
