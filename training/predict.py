"""Predicts the class of picture files, as the tutorial's predict_image does: `python -m training.predict shoe.png`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifier.classifier import Classifier, Prediction
from classifier.networks import Pixels
from classifier.picture import PictureError, PictureTooLarge
from classifier.preprocessing import read_pixels
from training.command import CHECKPOINT, Parser, add_device, execute
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
    add_device(parser)
    options = parser.parse_args(arguments)
    return execute(lambda: predict_files(options))


def predict_files(options: argparse.Namespace) -> dict[str, Any]:
    """Predicts each file; one that cannot be read is reported in one sentence and sets the exit code to 1."""
    console = Console(markup=False, emoji=False, highlight=False)  # a file may be called [red] or :shoe:
    classifier = Classifier.load(options.checkpoint, options.device)
    if classifier.checkpoint.assumption:
        print_line(console, classifier.checkpoint.assumption)
    predictions: list[dict[str, Any]] = []
    for path in options.images:
        try:
            pixels = read_pixels(read(path))
        except (PictureError, OSError) as error:
            sentence = str(error) if isinstance(error, PictureError) else f"{error.strerror}."
            print(printable(f"{path}: {sentence}"), file=sys.stderr)
            predictions.append({"file": str(path), "detail": sentence})
            continue
        [prediction] = classifier.predict(pixels[None, None])
        print_prediction(console, path, pixels, prediction)
        predictions.append({"file": str(path), **prediction})
    failed = any("detail" in prediction for prediction in predictions)
    return {"predictions": predictions, "exit_code": int(failed)}


def read(path: Path) -> bytes:
    """The content of a picture file. Raises OSError, PictureTooLarge."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PictureTooLarge(f"The file is over the limit of {MAX_BYTES:,} bytes.")
    return content


def print_prediction(console: Console, path: Path, pixels: Pixels, prediction: Prediction) -> None:
    """Prints the prediction and, on a terminal, the 28×28 picture that the network received."""
    print_line(console, f"{path}: {prediction['class']} ({prediction['confidence']:.1%})")
    bar = "█" if console.encoding.startswith("utf") else "#"
    table = Table(show_header=False)
    for name, probability in sorted(prediction["probabilities"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{probability:.1%}", bar * round(30 * probability))
    if console.is_terminal:
        has_colours = console.color_system in ("256", "truecolor") and not console.no_color and bar == "█"
        console.print(half_blocks(pixels) if has_colours else shades(pixels))
    console.print(table)


def half_blocks(pixels: Pixels) -> Text:
    """uint8 [28,28] as 14 lines of text; each character shows two pixels, one above the other."""
    text = Text()
    for upper, lower in zip(pixels[0::2].tolist(), pixels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({above},{above},{above}) on rgb({below},{below},{below})")
        text.append("\n")
    return text


def shades(pixels: Pixels) -> str:
    """uint8 [28,28] as 14 lines of ASCII, for a terminal without colours; each character is two pixels' mean."""
    means = pixels.reshape(14, 2, 28).mean(axis=1)
    return "\n".join("".join(SHADES[int(mean) * len(SHADES) // 256] for mean in row) for row in means) + "\n"


if __name__ == "__main__":
    sys.exit(main())
