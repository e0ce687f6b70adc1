"""What stands at --output: said before a run replaces it, and left alone by an interrupted one."""

from pathlib import Path

from rich.console import Console

from classifier.checkpoint import CheckpointError, describe, load
from training.command import TrainingError
from training.progress import print_line
from training.recipes import Recipe
from training.resume import ResumeFile


def announce_replacement(
    output: Path, recipe: Recipe, seed: int, resume_file: ResumeFile, has_ended: bool, console: Console
) -> None:
    """Says which network stands at --output. Raises TrainingError if --resume would extend a finished run.

    `has_ended`: --resume is given and there is no resume file, so a run that wrote `output` has ended.
    """
    try:
        checkpoint = load(output)
    except CheckpointError as error:
        print_line(console, f"{error.with_path()} This run replaces it at its end.")
        return
    print_line(
        console,
        f"{output} holds {describe(checkpoint)}. This run replaces it at its end, but not if interrupted.",
    )
    same_run = (checkpoint.recipe, checkpoint.training.get("seed")) == (recipe.name, seed)
    if has_ended and same_run:
        raise TrainingError(
            f"there is no {resume_file.path} to resume: {output} is a run of this recipe and seed that has "
            "ended, and such a run cannot be extended; train anew without --resume, or name another --output."
        )


def interrupted_output(output: Path) -> Path:
    """Where an interrupted run writes: `output` if nothing stands there, else beside it."""
    return output.with_name(f"{output.stem}.interrupted{output.suffix}") if output.exists() else output
