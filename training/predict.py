"""Predicts the class of picture files, as the tutorial's predict_image does: `python -m training.predict shoe.png`."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifier.classifier import Classifier, Prediction
from classifier.picture import PictureError, PictureTooLarge
from classifier.pixels import PHOTO_SHAPE, SHAPE, SIDE, Pixels
from classifier.preprocessing import Input, prepare
from training.command import CHECKPOINT, PHOTO_CHECKPOINT, Parser, add_device, execute
from training.progress import print_line, printable

SHADES = " .:-=+*#%@"  # from black to white
MAX_BYTES = 10 * 2**20  # 10 MiB, the service's limit


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m training.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, WebP, AVIF, GIF or BMP file")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=CHECKPOINT,
        metavar="FILE",
        help=f"file of the classifier (default: {CHECKPOINT})",
    )
    parser.add_argument(
        "--photo-checkpoint",
        type=Path,
        metavar="FILE",
        help=f"file of the photo network, for all but images of Fashion-MNIST (default: {PHOTO_CHECKPOINT}, if there)",
    )
    add_device(parser)
    options = parser.parse_args(arguments)
    return execute(lambda: predict_files(options))


def predict_files(options: argparse.Namespace) -> dict[str, Any]:
    """Predicts each file; one that cannot be read is reported in one sentence and sets the exit code to 1."""
    console = Console(markup=False, emoji=False, highlight=False)  # a file may be called [red] or :shoe:
    classifiers = load_classifiers(options.checkpoint, options.photo_checkpoint, options.device)
    if assumption := classifiers[SHAPE].checkpoint.assumption:
        print_line(console, assumption)
    predictions: list[dict[str, Any]] = []
    for path in options.images:
        try:
            pixels, facts = prepare(read(path), photos=PHOTO_SHAPE in classifiers)
        except (PictureError, OSError) as error:
            sentence = str(error) if isinstance(error, PictureError) else f"{error.strerror}."
            print(printable(f"{path}: {sentence}"), file=sys.stderr)
            predictions.append({"file": str(path), "detail": sentence})
            continue
        [prediction] = classifiers[pixels.shape].predict(pixels[None])
        print_prediction(console, path, pixels, prediction, facts)
        predictions.append({"file": str(path), **prediction, "input": facts})
    failed = any("detail" in prediction for prediction in predictions)
    return {"predictions": predictions, "exit_code": int(failed)}


def load_classifiers(checkpoint: Path, photos: Path | None, device: str) -> dict[tuple[int, ...], Classifier]:
    """The network for images of Fashion-MNIST, and the photo network if there is one, by the shape of their images.

    Raises CheckpointError, DeviceError.
    """
    paths = [checkpoint]
    if photos or PHOTO_CHECKPOINT.exists():
        paths.append(photos or PHOTO_CHECKPOINT)
    classifiers: dict[tuple[int, ...], Classifier] = {}
    for path, shape, flag in zip(paths, (SHAPE, PHOTO_SHAPE), ("--checkpoint", "--photo-checkpoint"), strict=False):
        classifiers[shape] = Classifier.load(path, device)
        classifiers[shape].check_shape(shape, path.name, flag)
    return classifiers


def read(path: Path) -> bytes:
    """The content of a picture file. Raises OSError, PictureTooLarge."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PictureTooLarge(f"The file is over the limit of {MAX_BYTES:,} bytes.")
    return content


def print_prediction(console: Console, path: Path, pixels: Pixels, prediction: Prediction, facts: Input) -> None:
    """Prints the prediction and, on a terminal, the picture that the network received."""
    print_line(console, f"{path}: {prediction['class']} ({prediction['confidence']:.1%})")
    if prediction["familiar"] is False:
        print_line(console, "This picture does not look like any of the ten classes.")
    if facts["adapted"]:
        print_line(console, f"The picture was {', '.join(facts['adapted'])}; {prediction['model']} answered.")
    bar = "█" if console.encoding.startswith("utf") else "#"
    table = Table(show_header=False)
    for name, probability in sorted(prediction["probabilities"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{probability:.1%}", bar * round(30 * probability))
    if console.is_terminal:
        has_colours = console.color_system in ("256", "truecolor") and not console.no_color and bar == "█"
        console.print(half_blocks(pixels) if has_colours else shades(pixels))
    console.print(table)


def half_blocks(pixels: Pixels) -> Text:
    """uint8 [1,28,28] or [3,160,160] as 14 or 16 lines of text; each character is two pixels, one above the other."""
    text = Text()
    step = pixels.shape[1] // SIDE
    colours = np.broadcast_to(pixels, (3, *pixels.shape[1:]))[:, ::step, ::step].transpose(1, 2, 0)
    for upper, lower in zip(colours[0::2].tolist(), colours[1::2].tolist(), strict=True):
        for (red, green, blue), below in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({red},{green},{blue}) on rgb({below[0]},{below[1]},{below[2]})")
        text.append("\n")
    return text


def shades(pixels: Pixels) -> str:
    """uint8 [1,28,28] or [3,160,160] as 14 or 16 lines of ASCII, for a terminal without colours; each character is the
    mean of two pixels."""
    step = pixels.shape[1] // SIDE
    levels = pixels.mean(axis=0)[::step, ::step]
    means = (levels[0::2] + levels[1::2]) / 2
    return "\n".join("".join(SHADES[int(mean) * len(SHADES) // 256] for mean in row) for row in means) + "\n"


if __name__ == "__main__":
    sys.exit(main())
