"""Robustness to corruptions of the images: noise, blur, rotation, brightness, contrast and others.

The kinds are those of Fashion-MNIST-C (Weiss and Tonella 2022, "Simple Techniques Work Surprisingly Well for Neural
Network Test Prioritization and Active Learning"), each at one strength, made by torchvision.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from classifier.classifier import Classifier
from classifier.pixels import SIDE
from training.data import Images
from training.metrics import Evaluation, evaluate

IMAGES = 2_000  # of the test set, from its start; a corruption of all would take as long as the evaluation itself
SEED = 0
BILINEAR = InterpolationMode.BILINEAR

Corruption = Callable[[Tensor], Tensor]
"""Pixels, uint8 [N,C,H,W] -> pixels of the same dtype and shape."""


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """`sigma`: in pixels of a 28×28 image."""
    sigma *= pixels.shape[-1] / SIDE
    blur: Tensor = functional.gaussian_blur(pixels, [1 + 2 * round(3 * sigma)] * 2, [sigma])
    return blur


def pixelated(pixels: Tensor) -> Tensor:
    side = pixels.shape[-1]
    small = functional.resize(pixels, [side // 2], BILINEAR, antialias=True)
    large: Tensor = functional.resize(small, [side], InterpolationMode.NEAREST)
    return large


def with_impulses(pixels: Tensor, fraction: float) -> Tensor:
    """Salt and pepper noise: a fraction of the pixels is black or white."""
    chance = torch.rand(pixels.shape)
    return pixels.masked_fill(chance < fraction / 2, 0).masked_fill(chance > 1 - fraction / 2, 255)


def moved(pixels: Tensor, angle: float = 0, shift: float = 0, scale: float = 1, shear: float = 0) -> Tensor:
    """`shift`: as a fraction of the side, right and down; angles in degrees."""
    distance = shift * pixels.shape[-1]
    result: Tensor = functional.affine(pixels, angle, [distance, distance], scale, [shear], BILINEAR)
    return result


def compressed(pixels: Tensor, quality: int) -> Tensor:
    pictures = []
    for image in pixels:
        buffer = io.BytesIO()
        functional.to_pil_image(image).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as picture:
            pictures.append(functional.pil_to_tensor(picture))
    return torch.stack(pictures)


CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise, 0.15 of white": partial(functional.gaussian_noise, sigma=0.15),
    "impulse noise, 5 % of the pixels": partial(with_impulses, fraction=0.05),
    "blur, 1 pixel of 28": partial(blurred, sigma=1),
    "half the resolution": pixelated,
    "JPEG of quality 20": partial(compressed, quality=20),
    "rotation by 20°": partial(moved, angle=20),
    "shear by 20°": partial(moved, shear=20),
    "scale 0.7": partial(moved, scale=0.7),
    "shift by a tenth": partial(moved, shift=0.1),
    "half the brightness": partial(functional.adjust_brightness, brightness_factor=0.5),
    "twice the brightness": partial(functional.adjust_brightness, brightness_factor=2.0),
    "half the contrast": partial(functional.adjust_contrast, contrast_factor=0.5),
}


def evaluate_corruptions(classifier: Classifier, images: Images) -> dict[str, Evaluation]:
    """The evaluation of the first IMAGES images as they are, and under each corruption. The same images each time."""
    images = images[:IMAGES].to(torch.device("cpu"))
    results = {"none": evaluate(classifier, images)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for name, corrupt in CORRUPTIONS.items():
            results[name] = evaluate(classifier, replace(images, pixels=corrupt(images.pixels)))
    return results
