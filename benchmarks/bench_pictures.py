"""Accuracy on test images as people send them, and familiarity: `python -m benchmarks.bench_pictures [--images 1000]`.

Each test image is drawn on other backgrounds, in other sizes, with frames, bars and transparent margins, encoded, and
read as the service reads an upload. Then the area under the receiver operating characteristic (AUROC) of familiarity
against pictures that show no garment. Needs the extra `bench`. `--mistakes FILE` draws mistakes of the photo network.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from classifier.classifier import Classifier
from classifier.pixels import CLASSES, PHOTO_SHAPE, SIDE, Pixels
from classifier.preprocessing import prepare
from training import data
from training.augmentation import paint
from training.metrics import auroc, energies
from training.predict import load_classifiers
from training.report import grid

COLOURED = "in colours, turned, shifted"
MISTAKES = 20

Encoder = Callable[[Pixels], bytes]
SEED = 0


def encoded(picture: Image.Image | NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, format, **options)
    return buffer.getvalue()


def drawn(
    image: Pixels, background: int = 255, garment: int = 0, size: float = 1.0, side: int = 280, at: float = 0.5
) -> Pixels:
    """The image, uint8 [28,28], over `size` of a picture of `side`×`side` pixels; its brightest pixels have the level
    `garment`."""
    width = round(side * size)
    enlarged = np.asarray(Image.fromarray(image).resize((width, width), Image.Resampling.BICUBIC)) / 255
    cover = np.zeros((side, side))
    first = round((side - width) * at)
    cover[first : first + width, first : first + width] = enlarged
    levels: Pixels = (background + (garment - background) * cover).round().astype(np.uint8)
    return levels


def painted(image: Pixels) -> Pixels:
    """The image in a random colour on a random background, uint8 [160,160,3], as the photo network learns them."""
    generator = torch.Generator().manual_seed(int(image.sum()))
    colours = paint(torch.from_numpy(image)[None, None], generator)[0].round().byte()
    return colours.permute(1, 2, 0).numpy()


def framed(picture: Pixels, thickness: int = 1) -> Pixels:
    return np.pad(picture, thickness)


def between_bars(picture: Pixels) -> Pixels:
    return np.pad(picture, ((len(picture) // 3, len(picture) // 3), (0, 0)))


def card(picture: Pixels, disc: bool = False, alpha: int = 255, margin: int = 40) -> Image.Image:
    """The picture as a card or a disc in a transparent margin."""
    side = len(picture)
    visible = Image.new("L", (side, side))
    draw = ImageDraw.Draw(visible)
    (draw.ellipse if disc else draw.rectangle)((0, 0, side - 1, side - 1), fill=alpha)
    opaque = Image.fromarray(picture).convert("RGBA")
    opaque.putalpha(visible)
    result = Image.new("RGBA", (side + 2 * margin,) * 2)
    result.paste(opaque, (margin, margin))
    return result


def on_white(size: float) -> Encoder:
    return lambda image: encoded(drawn(image, size=size))


def on_grey(level: int) -> Encoder:
    return lambda image: encoded(drawn(image, level, size=0.9))


PRESENTATIONS: dict[str, Encoder] = {
    "genuine": encoded,
    "28×28, dark on white": lambda image: encoded(255 - image),
    "28×28, dark on white, JPEG": lambda image: encoded(255 - image, "JPEG", quality=90),
    "enlarged 10 times": lambda image: encoded(image.repeat(10, 0).repeat(10, 1)),
    "enlarged 10 times, JPEG": lambda image: encoded(image.repeat(10, 0).repeat(10, 1), "JPEG", quality=75),
    **{f"on white, {size:.0%} of the side": on_white(size) for size in (1.0, 0.9, 0.75, 0.6, 0.4, 0.25)},
    "on white, in a corner": lambda image: encoded(drawn(image, size=0.4, at=0.1)),
    "on white, 60%, JPEG of 600×600": lambda image: encoded(drawn(image, size=0.6, side=600), "JPEG", quality=80),
    **{f"on grey {level}": on_grey(level) for level in (200, 160, 130, 110)},
    "light on grey 60": lambda image: encoded(drawn(image, 60, 255, size=0.9)),
    "frame of a pixel": lambda image: encoded(framed(drawn(image, size=0.9))),
    "frame of five pixels": lambda image: encoded(framed(drawn(image, size=0.9), 5)),
    "between black bars": lambda image: encoded(between_bars(drawn(image, size=0.9))),
    "between black bars, left and right": lambda image: encoded(between_bars(drawn(image, size=0.9).T).T),
    "card in a transparent margin": lambda image: encoded(card(drawn(image, size=0.9))),
    "disc in a transparent margin": lambda image: encoded(card(drawn(image, size=0.65), disc=True)),
    COLOURED: lambda image: encoded(painted(image)),
    "at 90% opacity": lambda image: encoded(card(drawn(image, size=0.9), alpha=230)),
}


def strangers() -> dict[str, list[bytes]]:
    """Pictures that show no garment, by kind."""
    from skimage.data import lfw_subset  # 100 faces, then 100 other pictures
    from sklearn.datasets import load_digits

    generator = np.random.default_rng(SEED)
    digits = [Image.fromarray((digit * 255 / 16).astype(np.uint8)) for digit in load_digits().images]
    return {
        "digits": [encoded(digit.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for digit in digits],
        "faces": [encoded((face * 255).round().astype(np.uint8)) for face in lfw_subset()[:100]],
        "noise": [encoded(generator.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)) for _ in range(500)],
        "blanks": [encoded(np.full((SIDE, SIDE), level, np.uint8)) for level in range(256)],
        "text": [encoded(text(generator)) for _ in range(500)],
    }


def text(generator: np.random.Generator) -> Image.Image:
    """A screenshot of text, in black on white."""
    picture = Image.new("L", (320, 240), 255)
    draw = ImageDraw.Draw(picture)
    for top in range(8, 230, int(generator.integers(12, 20))):
        letters = generator.choice(list("abcdefghijklmnopqrstuvwxyz    "), int(generator.integers(10, 48)))
        draw.text((10, top), "".join(letters), fill=0)
    return picture


def logits_of(classifiers: dict[tuple[int, ...], Classifier], pictures: list[bytes]) -> tuple[torch.Tensor, float]:
    """The logits, float32 [N,10], and the fraction of the pictures that the photo network answered."""
    prepared = [prepare(picture, photos=PHOTO_SHAPE in classifiers).pixels for picture in pictures]
    rows = [classifiers[pixels.shape].logits(pixels[None])[0] for pixels in prepared]
    return torch.from_numpy(np.stack(rows)), float(np.mean([pixels.shape == PHOTO_SHAPE for pixels in prepared]))


def draw_mistakes(images: data.Images, predicted: torch.Tensor, path: Path) -> None:
    """Draws the first images in colours that are predicted wrongly, int64 [N], each with its answer and its label."""
    wrong = (~images.is_right(predicted)).nonzero().flatten()[:MISTAKES].tolist()
    pictures = torch.from_numpy(np.stack([painted(images.array()[index, 0]) for index in wrong])).permute(0, 3, 1, 2)
    titles = [f"{CLASSES[predicted[index]]}\nlabel {CLASSES[images.labels[index]]}" for index in wrong]
    grid(pictures, titles).savefig(path, dpi=80)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_pictures", description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="of the test set, from its start; default: 1000")
    parser.add_argument("--mistakes", type=Path, metavar="FILE", help="PNG file of mistakes of the photo network")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/model_scratch.pt"), metavar="FILE")
    options = parser.parse_args()
    classifiers = load_classifiers(options.checkpoint, None, "cpu")
    images = data.load_test()[: options.images]
    result: dict[str, Any] = {"images": len(images)}
    print(f"{'presentation':<40} right  by the photo network")
    genuine = torch.empty(0)
    for name, encode in PRESENTATIONS.items():
        logits, by_photos = logits_of(classifiers, [encode(image) for image in images.array()[:, 0]])
        genuine = logits if name == "genuine" else genuine
        predicted = logits.argmax(dim=1)
        result[name] = images.is_right(predicted).double().mean().item()
        print(f"{name:<40} {result[name]:.1%}  {by_photos:.1%}", flush=True)
        if name == COLOURED and options.mistakes:
            draw_mistakes(images, predicted, options.mistakes)
    classifier = next(iter(classifiers.values()))
    familiar = energies(classifier, genuine)
    for name, pictures in strangers().items():
        logits, _ = logits_of({classifier.shape: classifier}, pictures)
        result[f"AUROC against {name}"] = auroc(familiar, energies(classifier, logits))
        print(f"AUROC of familiarity against {name:<12} {result[f'AUROC against {name}']:.3f}", flush=True)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
