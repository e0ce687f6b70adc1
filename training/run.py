"""Trains a classifier: `python -m training.run [--recipe NAME]`.

The story, top to bottom: recipe -> data -> model -> loop -> calibrate -> evaluate -> save.
"""

import argparse
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from classifier.checkpoint import Checkpoint, save
from classifier.classifier import Classifier, find_device
from training import data
from training.calibration import fit_temperature
from training.command import (
    CHECKPOINT,
    INTERRUPTED,
    Parser,
    TrainingError,
    add_device_and_data,
    check_writable,
    execute,
    positive,
    seed,
    uninterrupted,
)
from training.distributed import Ranks, ranks
from training.evaluate import all_logits, evaluate, print_table
from training.loop import Progression, loop
from training.progress import say
from training.recipes import RECIPES, Recipe, find_recipe
from training.resume import SideFile
from training.start import load_teacher, make_network, teach
from training.step import precision


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
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html and its figures there")
    parser.add_argument("--resume", action="store_true", help="go on from where a run that was killed has left off")
    parser.add_argument("--backbone", metavar="NAME", help="timm's name of a network, for recipe pretrained")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its ImageNet weights, else timm downloads them")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="the checkpoint that recipe shipped learns from")
    options = parser.parse_args(arguments)
    if options.recipe != "pretrained" and (options.backbone or options.weights):
        parser.error("--backbone and --weights are for --recipe pretrained")
    if options.teacher and not RECIPES[options.recipe].taught:
        parser.error("--teacher is for --recipe shipped")
    if not options.teacher and RECIPES[options.recipe].taught:
        parser.error("this recipe learns from a checkpoint, such as recipe best makes: name it with --teacher FILE")
    if options.teacher and options.teacher.resolve() == options.output.resolve():
        parser.error("--teacher and --output are the same file")
    return options


def train(options: argparse.Namespace) -> dict[str, Any] | None:
    device = find_device(options.device)
    recipe = customise(find_recipe(options.recipe, device.type), options)
    check_writable("--output", options.output)
    if options.report:
        check_writable("--report", options.report / "report.html")
    with ranks(device) as these:
        return story(Console(emoji=False, quiet=not these.leads), options, recipe, device, these)


def story(
    console: Console, options: argparse.Namespace, recipe: Recipe, device: torch.device, these: Ranks
) -> dict[str, Any] | None:
    teacher = load_teacher(options.teacher, device.type, options.seed) if options.teacher else None
    with these.leader_first():
        training_images, test_images = data.load(options.data_dir)
    training_images, held_out = data.split(training_images.to(device), recipe.held_out, options.seed)
    if recipe.batch_size < 2 * these.count:
        raise TrainingError(f"a batch of {recipe.batch_size} images is too small for {these.count} processes.")

    torch.manual_seed(options.seed)
    network = make_network(recipe, training_images, options.weights).to(device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    say(
        console,
        f"Recipe {recipe.name}, seed {options.seed}: {recipe.architecture} with {parameters:,} parameters "
        f"in {str(precision(recipe, device)).removeprefix('torch.')} on {device.type}; "
        f"{len(training_images):,} images to train on, {len(held_out):,} held out.",
    )
    if teacher:
        say(console, f"Asking {teacher.model}, the teacher, for its answers to the images.")
        training_images = teach(training_images, teacher)
        recipe = replace(recipe, teacher=teacher.model)
    if options.report and these.leads:
        from training import report  # matplotlib takes a second to import

        report.write_samples(options.report, training_images)

    side_file = SideFile(options.output, recipe, options.seed, these.count)
    resume = options.resume and side_file.exists()
    if options.resume:
        say(console, f"Going on from {side_file.path}." if resume else f"No {side_file.path}: from the beginning.")
    progression = loop(
        console, recipe, network, training_images, held_out, options.seed, side_file, resume=resume, ranks=these
    )
    if not these.leads:
        return None
    with uninterrupted():
        result = finish(console, options, recipe, device, progression, training_images, held_out, test_images)
    if not progression.interrupted:
        side_file.remove()
    return result


def finish(
    console: Console,
    options: argparse.Namespace,
    recipe: Recipe,
    device: torch.device,
    progression: Progression,
    training_images: data.Images,
    held_out: data.Images,
    test_images: data.Images,
) -> dict[str, Any]:
    """Calibrates, evaluates and saves the best of the run; what it reached, as the last line says it."""
    if progression.best_weights is None and progression.interrupted:
        raise KeyboardInterrupt
    if progression.best_weights is None or not math.isfinite(progression.best_loss):
        raise TrainingError(
            "the validation loss was not a number after "
            f"{'the last' if recipe.kept == 'last' else 'any'} epoch; try a smaller --lr."
        )

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
    checkpoint = replace(checkpoint, sha256=save(checkpoint, options.output))

    print_table(console, evaluation)
    if options.report:
        from training import report

        report.write(options.report, checkpoint, evaluation, test_images, training_images)
    python = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else sys.executable
    serve = shlex.join((python, "-m", "service", "--model", str(options.output)))
    say(console, f"Saved {options.output}. Serve it: {serve}")
    return {
        "recipe": recipe.name,
        "seed": options.seed,
        "device": device.type,
        "epochs": len(progression.history),
        "seconds": round(progression.seconds, 2),
        "warm_up_seconds": round(progression.warm_up, 2),
        "parameters": checkpoint.parameters,
        "validation_loss": progression.best_loss,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "ece": evaluation.ece,
        "output": str(options.output),
        "exit_code": INTERRUPTED if progression.interrupted else 0,
    }


def customise(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    learning_rate = options.lr or recipe.learning_rate
    return replace(
        recipe,
        arguments=recipe.arguments | ({"backbone": options.backbone} if options.backbone else {}),
        epochs=options.epochs or recipe.epochs,
        batch_size=options.batch_size or recipe.batch_size,
        learning_rate=learning_rate,
        filter_learning_rate=recipe.filter_learning_rate * (learning_rate / recipe.learning_rate),
    )


def calibrate(checkpoint: Checkpoint, held_out: data.Images, device: torch.device) -> Checkpoint:
    """The checkpoint with its temperature, fitted on images it was not trained on."""
    logits = all_logits(Classifier(checkpoint, device), held_out)
    return replace(checkpoint, calibration={"temperature": fit_temperature(logits, held_out.labels)})


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
