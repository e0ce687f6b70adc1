"""The arguments of `python -m training.run`."""

import argparse
from pathlib import Path

from training.command import (
    CHECKPOINT,
    PHOTO_CHECKPOINT,
    Parser,
    add_data_dir,
    add_device,
    add_report,
    positive,
    seed,
)
from training.recipes import PRETRAINED, PURPOSES, RECIPES


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options of a run; an invalid one ends the process with one sentence and the exit code 2."""
    recipes = "\n".join(f"  {name:<16} {purpose}" for name, purpose in PURPOSES.items())
    parser = Parser(
        prog="python -m training.run",
        description=description,
        epilog=f"recipes:\n{recipes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--recipe",
        choices=RECIPES,
        default="fast",
        metavar="NAME",
        help="network and hyperparameters, see below (default: fast)",
    )
    add("--epochs", type=positive(int), metavar="N", help="passes over the training images (default: the recipe's)")
    add("--batch-size", type=positive(int), metavar="N", help="images per step (default: the recipe's)")
    add("--lr", type=positive(float), metavar="X", help="peak learning rate (default: the recipe's)")
    add("--seed", type=seed, default=0, metavar="N", help="of data split, weights and augmentation (default: 0)")
    add_device(parser)
    add_data_dir(parser)
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"checkpoint to write (default: {CHECKPOINT}, of recipe photos {PHOTO_CHECKPOINT})",
    )
    add_report(parser)
    add("--resume", action="store_true", help="continue an interrupted run; repeat its other arguments (default: no)")
    add(
        "--backbone",
        metavar="NAME",
        help=f"recipe pretrained: timm's network (default: {PRETRAINED.arguments['backbone']})",
    )
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="recipes pretrained and photos: ImageNet weights (default: timm downloads them)",
    )
    add(
        "--photos",
        type=Path,
        metavar="DIR",
        help="recipe photos: one folder of photos for each class, or several that classes.json explains (required)",
    )
    add("--teacher", type=Path, metavar="FILE", help="recipe shipped: checkpoint to distil knowledge from (required)")
    options = parser.parse_args(arguments)
    distils = RECIPES[options.recipe].distillation_weight > 0
    is_photos = options.recipe == "photos"
    options.output = options.output or (PHOTO_CHECKPOINT if is_photos else CHECKPOINT)
    if options.backbone and options.recipe != "pretrained":
        parser.error("--backbone is for --recipe pretrained")
    if options.weights and options.recipe not in ("pretrained", "photos"):
        parser.error("--weights is for --recipe pretrained and --recipe photos")
    if options.photos and not is_photos:
        parser.error("--photos is for --recipe photos")
    if is_photos and not options.photos:
        parser.error("this recipe needs photos: name their folder with --photos DIR")
    if options.teacher and not distils:
        parser.error("--teacher is for --recipe shipped")
    if distils and not options.teacher:
        parser.error("this recipe needs a teacher, a checkpoint of recipe best: name it with --teacher FILE")
    if options.teacher and options.teacher.resolve() == options.output.resolve():
        parser.error("--teacher and --output are the same file")
    return options
