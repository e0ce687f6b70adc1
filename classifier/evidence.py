"""Evidence: for each class, which parts of an image speak for it. Occlusion, or a class activation map."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classifier.networks import Logits, Pixels
from classifier.pixels import CLASSES, SIDE

SQUARE = 6  # pixels, the side of the square that hides a part of the image
BACKGROUND = 0  # grey level of the square
STEPS = (2, 4, 6)  # pixels from one place of the square to the next: 144, 36 or 16 places
MARGIN = 2  # pixels around the image that no map covers
MAX_MULTIPLY_ADDS = 2 * 10**9  # of all places together; 0.05 s on a core
BATCH = 36  # images that go through the network together; more take more memory and are not faster for each
LARGEST = float(np.finfo(np.float32).max)
OCCLUSION = "occlusion"
OCCLUSION_SOURCE = "Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks"
ACTIVATION_MAP = "class activation map"
ACTIVATION_MAP_SOURCE = "Zhou et al. 2016, Learning Deep Features for Discriminative Localization"


@dataclass(frozen=True)
class Evidence:
    """A map for each class: above 0 where the image speaks for it, below 0 where it speaks against it."""

    method: str
    source: str
    maps: NDArray[np.float64]  # [10, rows, columns], in class order
    box: tuple[float, float, float, float]  # top, left, bottom, right of the maps, as fractions of the image


def occlusion(logits: Callable[[Pixels], Logits], pixels: Pixels, multiply_adds: int) -> Evidence | None:
    """How much the logit of each class falls when a square of background hides a part of `pixels`, uint8 [1,28,28].

    The logit is what the network gives. For the tutorial's Net that is behind its sigmoid: the probabilities are
    computed from these numbers, and before the sigmoid differences would count that do not change the answer.
    `multiply_adds` of one image. The larger the network, the fewer the places of the square; None if 16 are too many.
    """
    for step in STEPS:
        places = (SIDE - 2 * MARGIN) // step
        if places**2 * multiply_adds <= MAX_MULTIPLY_ADDS:
            break
    else:
        return None
    images = occluded(pixels, step)
    changed = (images != pixels).any(axis=(1, 2, 3))  # where the square hides background only, no logit falls
    images = np.concatenate([pixels[None], images[changed]])
    batches = [logits(images[begin : begin + BATCH]) for begin in range(0, len(images), BATCH)]
    found = np.concatenate(batches).astype(np.float64)
    falls = np.zeros((places**2, len(CLASSES)))
    with np.errstate(invalid="ignore"):  # of a network that overflows
        falls[changed] = np.nan_to_num(found[0] - found[1:], posinf=LARGEST, neginf=-LARGEST)
    maps = falls.T.reshape(len(CLASSES), places, places)
    low, high = MARGIN / SIDE, 1 - MARGIN / SIDE
    return Evidence(OCCLUSION, OCCLUSION_SOURCE, maps, (low, low, high, high))


def occluded(pixels: Pixels, step: int) -> Pixels:
    """The image, uint8 [1,28,28], with the square at each place, uint8 [N,1,28,28], row by row.

    A cell of `step`×`step` pixels has the same centre as the square. The cells cover the image without its margin.
    """
    places = (SIDE - 2 * MARGIN) // step
    first = MARGIN + (step - SQUARE) // 2
    images = np.repeat(pixels[None], places**2, axis=0)
    for number, image in enumerate(images):
        top, left = (first + step * index for index in divmod(number, places))
        image[:, top : top + SQUARE, left : left + SQUARE] = BACKGROUND
    return images


def class_activation_map(features: Tensor, last: nn.Linear) -> Evidence:
    """The part of each cell in the logit of each class: their mean and the bias are the logit.

    `features` are the maps, float32 [C,H,W], whose means `last` takes.
    """
    weights = last.weight.detach().cpu().double()
    maps = torch.einsum("kc,chw->khw", weights, features.double()).nan_to_num()
    return Evidence(ACTIVATION_MAP, ACTIVATION_MAP_SOURCE, maps.numpy(), (0.0, 0.0, 1.0, 1.0))
