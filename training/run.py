"""Trains a classifier, evaluates it and writes its checkpoint: `python -m training.run [--recipe NAME]`.

The steps: recipe, data, network, training, calibration, evaluation on the test set, checkpoint.
"""

import argparse
import math
import os
import shlex
import sys
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from classifier.checkpoint import Checkpoint, save
from classifier.classifier import Classifier, find_device
from training import data, photos
from training.arguments import parse
from training.calibration import calibrate
from training.command import (
    INTERRUPTED,
    TrainingError,
    check_writable,
    execute,
    interrupts_ignored,
)
from training.distillation import add_teacher_logits, load_teacher
from training.distributed import Processes, connected_processes
from training.evaluate import print_table
from training.loop import Run, RunState, train
from training.metrics import evaluate
from training.output import announce_replacement, interrupted_output
from training.progress import print_line
from training.provenance import provenance
from training.recipes import Recipe, find_recipe, make_network
from training.resume import ResumeFile
from training.step import compute_dtype


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments, __doc__)
    return execute(lambda: prepare(options))


def prepare(options: argparse.Namespace) -> dict[str, Any] | None:
    """Checks device and output, then trains in all processes. The result is that of the main process, else None."""
    with connected_processes() as dist:
        with dist.all_or_none():
            device = find_device(options.device)
            recipe = customise(find_recipe(options.recipe, device.type), options)
            if dist.is_main:
                check_writable("--output", options.output)
                if options.report:
                    check_writable("--report", options.report / "report.html")
        resume_file = ResumeFile(options.output, recipe, options.seed, dist.count)
        dist.check_same({"device": device.type} | resume_file.run)
        return run_training(options, recipe, device, dist.on(device), resume_file)


def customise(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the command line's values; Muon's learning rate changes in proportion to --lr."""
    learning_rate = options.lr or recipe.learning_rate
    return replace(
        recipe,
        arguments=recipe.arguments | ({"backbone": options.backbone} if options.backbone else {}),
        epochs=options.epochs or recipe.epochs,
        batch_size=options.batch_size or recipe.batch_size,
        learning_rate=learning_rate,
        muon_learning_rate=recipe.muon_learning_rate * (learning_rate / recipe.learning_rate),
    )


def run_training(
    options: argparse.Namespace, recipe: Recipe, device: torch.device, dist: Processes, resume_file: ResumeFile
) -> dict[str, Any] | None:
    """Trains, evaluates and saves; returns the last line's content in the main process, else None."""
    console = Console(emoji=False, quiet=not dist.is_main)
    resume = dist.broadcast(options.resume)
    holder = resume_file.find(dist) if resume else None
    with dist.all_or_none():
        if dist.is_main and options.output.exists():
            has_ended = resume and holder is None
            announce_replacement(options.output, recipe, options.seed, resume_file, has_ended, console)
        teacher = load_teacher(options.teacher, device.type, options.seed) if options.teacher else None
    saved = None
    if holder is not None:
        print_line(console, f"Resuming from {resume_file.path}{f' of process {holder}' if holder else ''}.")
        saved = resume_file.read_for_all(holder, dist)
    elif resume:
        print_line(console, f"No {resume_file.path}: starting anew.")
    with dist.one_per_machine_first():
        images, test_images = data.load(options.data_dir)
    with dist.all_or_none():
        training, validation = data.split(images.to(device), recipe.validation_images, options.seed)
        if options.photos:
            training, validation, test_images = photos.load_parts(options.photos, recipe, options.seed, training)
        run = make_run(options, recipe, training, validation, teacher, console, dist, resume_file)
        run = replace(run, saved=saved)
    found = {"photos": training.digest if isinstance(training, photos.Photos) else ""}
    dist.check_same(found | {"teacher": teacher.checkpoint.sha256 if teacher else ""})

    state = train(run)
    if state.interrupted:  # in the main process; the others have ended, or end when it does
        with interrupts_ignored():
            return finish(run, state, test_images, options)
    with interrupts_ignored(), dist.all_or_none():
        result = finish(run, state, test_images, options) if dist.is_main else None
    if dist.rank in (0, holder):
        resume_file.remove()
    return result


def make_run(
    options: argparse.Namespace,
    recipe: Recipe,
    training: data.Images,
    validation: data.Images,
    teacher: Classifier | None,
    console: Console,
    dist: Processes,
    resume_file: ResumeFile,
) -> Run:
    """The run: makes the network, with its initial weights, and the teacher's logits. Raises TrainingError."""
    if recipe.batch_size < 2 * dist.count:
        raise TrainingError(
            f"--batch-size {recipe.batch_size} is too small for {dist.count} process{'es' if dist.count > 1 else ''}: "
            f"at least {2 * dist.count} images."
        )
    device = training.pixels.device
    torch.manual_seed(options.seed)
    network = make_network(recipe, training, options.weights).to(device)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print_line(
        console,
        f"Recipe {recipe.name}, seed {options.seed}: {recipe.architecture} with {parameters:,} parameters "
        f"in {str(compute_dtype(recipe, device)).removeprefix('torch.')} on {device.type}; "
        f"{len(training):,} training and {len(validation):,} validation images.",
    )
    if teacher:
        print_line(console, f"Knowledge distillation: computing the logits of the teacher, {teacher.model}.")
        if teacher.checkpoint.assumption:
            print_line(console, teacher.checkpoint.assumption)
        training = add_teacher_logits(training, teacher)
        recipe = replace(recipe, teacher=teacher.model)
    if options.report and dist.is_main:
        from training import report  # matplotlib takes a second to import

        report.write_samples(options.report, training)
    return Run(recipe, network, training, validation, options.seed, console, dist, resume_file)


def halved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The filters and matrices of a state dict as float16, which halves the file; biases and normalisation stay."""
    return {name: weight.half() if weight.ndim > 1 else weight for name, weight in weights.items()}


def finish(run: Run, state: RunState, test_images: data.Images, options: argparse.Namespace) -> dict[str, Any]:
    """Calibrates, evaluates and saves the weights of a run; returns the last line's content. Raises TrainingError."""
    recipe, device = run.recipe, run.validation.pixels.device
    if state.best_weights is None and state.interrupted:
        raise KeyboardInterrupt
    if state.best_weights is None or not math.isfinite(state.best_loss):
        epoch = "the last" if recipe.keep == "last" else "any"
        raise TrainingError(f"the validation loss was not finite after {epoch} epoch; try a smaller --lr.")

    checkpoint = Checkpoint(
        recipe.architecture,
        recipe.arguments,
        halved(state.best_weights) if options.photos else state.best_weights,
        metrics={"validation_loss": state.best_loss},
        training=provenance(run, state),
    )
    checkpoint = calibrate(checkpoint, run.validation)
    classifier = Classifier(checkpoint, device)
    evaluation = evaluate(classifier, test_images)
    checkpoint.metrics.update(
        test_loss=evaluation.loss, test_accuracy=evaluation.accuracy, ece=evaluation.ece, nll=evaluation.nll
    )
    output = interrupted_output(options.output) if state.interrupted else options.output
    checkpoint = replace(checkpoint, sha256=save(checkpoint, output))

    print_table(run.console, evaluation, "Test photos" if options.photos else "Test set")
    if options.report:
        from training import report
        from training.corruptions import evaluate_corruptions

        corrupted = evaluate_corruptions(classifier, test_images)
        report.write(options.report, checkpoint, evaluation, test_images, run.training, corrupted)
    python = os.path.relpath(sys.executable) if sys.prefix.startswith(os.getcwd()) else sys.executable
    command = shlex.join((python, "-m", "service", "--model", str(output)))
    if output != options.output:
        print_line(run.console, f"The run was interrupted, so {options.output} stays as it was.")
    print_line(run.console, f"Saved {output}. Serve it: {command}")
    return {
        "recipe": recipe.name,
        "seed": run.seed,
        "device": device.type,
        "epochs": len(state.history),
        "seconds": round(state.seconds, 2),
        "warm_up_seconds": round(state.warmup_seconds, 2),
        "parameters": checkpoint.parameters,
        "validation_loss": state.best_loss,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "ece": evaluation.ece,
        "output": str(output),
        "exit_code": INTERRUPTED if state.interrupted else 0,
    }


if __name__ == "__main__":
    sys.exit(main())
