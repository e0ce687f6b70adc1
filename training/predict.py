"""The tutorial's predict_image, for files: `python -m training.predict shoe.png`."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifier.classifier import DEVICES, Classifier, Prediction
from classifier.networks import Pixels
from classifier.picture import PictureError, PictureTooLarge
from classifier.preprocessing import read_pixels
from training.command import CHECKPOINT, Parser, execute

MAX_BYTES = 10 * 2**20  # 10 MiB, as much as the service takes


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m training.predict", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="FILE")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda, then mps, then cpu")
    options = parser.parse_args(arguments)

    def story() -> dict[str, Any]:
        console = Console(markup=False, emoji=False, highlight=False)  # a file may be called [red] or :shoe:
        classifier = Classifier.load(options.checkpoint, options.device)
        predictions: list[dict[str, Any]] = []
        for path in options.images:
            try:
                pixels = read_pixels(read(path))
            except (PictureError, OSError) as error:
                sentence = str(error) if isinstance(error, PictureError) else f"{error.strerror}."
                print(f"{path}: {sentence}", file=sys.stderr)
                predictions.append({"file": str(path), "detail": sentence})
                continue
            [answer] = classifier.predict(pixels[None, None])
            show(console, path, pixels, answer)
            predictions.append({"file": str(path), **answer})
        failed = any("detail" in prediction for prediction in predictions)
        return {"predictions": predictions, "exit_code": int(failed)}

    return execute(story)


def read(path: Path) -> bytes:
    """The bytes of a picture file. Raises OSError, PictureTooLarge."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PictureTooLarge(f"The file is over the limit of {MAX_BYTES:,} bytes.")
    return content


def show(console: Console, path: Path, pixels: Pixels, answer: Prediction) -> None:
    """Prints the answer and, on a terminal, the 28×28 picture that the network saw."""
    console.print(f"{path}: {answer['class']} ({answer['confidence']:.1%})", soft_wrap=True)
    table = Table(show_header=False)
    for name, probability in sorted(answer["probabilities"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{probability:.1%}", "█" * round(30 * probability))
    if console.is_terminal:
        console.print(half_blocks(pixels))
    console.print(table)


def half_blocks(pixels: Pixels) -> Text:
    """uint8 [28,28] as 14 lines of text, each character the upper half of one pixel row over the lower of the next."""
    text = Text()
    for upper, lower in zip(pixels[0::2].tolist(), pixels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({above},{above},{above}) on rgb({below},{below},{below})")
        text.append("\n")
    return text


if __name__ == "__main__":
    sys.exit(main())
