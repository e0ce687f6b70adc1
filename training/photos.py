"""Photos of garments to learn from, beside Fashion-MNIST: reads a folder, and makes batches for the photo network."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from classifier.picture import PictureError
from classifier.pixels import CLASSES, PHOTO_SHAPE
from classifier.preprocessing import prepare
from training import augmentation
from training.data import DataError, Images

if TYPE_CHECKING:
    from training.recipes import Recipe

CLASSES_FILE = "classes.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp")
FOLDERS = {"".join(filter(str.isalnum, name.lower())): name for name in CLASSES} | {"tshirt": CLASSES[0]}
PSEUDO_LABEL_BATCH = 50  # photos
MIN_PHOTOS = 50  # to train, to calibrate and to test
# A folder of coats that may also be pullovers would teach that every coat is one: of ten people's coats, all were
# called Pullover. It is learned as Coat, and evaluated as either.
LEARNED = {("Pullover", "Coat"): ("Coat",)}


@dataclass(frozen=True)
class Photos(Images):
    """Photos on one device, of which several classes may be right, or none.

    `pixels` is uint8 [N,3,160,160]; `labels`, int64 [N], is the first right class, -1 if none is right.
    """

    right: Tensor | None = None  # bool [N,10], the right classes
    learned: Tensor | None = None  # bool [N,10], the classes to learn
    fashion: Images | None = None  # images of Fashion-MNIST, to learn as well
    folders: tuple[str, ...] = ()  # the folder of each photo
    digest: str = ""  # SHA-256 of all photos that were loaded, and of their right classes

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        assert self.right is not None
        assert self.learned is not None
        return replace(super()._map(change), right=change(self.right), learned=change(self.learned))

    def to(self, device: torch.device) -> Self:
        return replace(super().to(device), fashion=self.fashion.to(device) if self.fashion else None)

    def losses(self, logits: Tensor) -> Tensor:
        return set_loss(logits, self.marks)

    @property
    def marks(self) -> Tensor:
        assert self.right is not None
        return self.right


def set_loss(logits: Tensor, right: Tensor, none_weight: float = 0.3) -> Tensor:
    """The loss of each photo, float32 [N], in nats; `logits` is float32 [N,10], `right` bool [N,10].

    It is minus the logarithm of the summed probability of the right classes. If none is right, the loss is the mean of
    minus the logarithm of each probability, times `none_weight`: the lower, the more equal the probabilities.
    """
    log_probabilities = logits.log_softmax(dim=1)
    none = ~right.any(dim=1)
    some = -log_probabilities.masked_fill(~(right | none[:, None]), -torch.inf).logsumexp(dim=1)
    return torch.where(none, -none_weight * log_probabilities.mean(dim=1), some)


@torch.no_grad()
def with_pseudo_labels(photos: Photos, network: nn.Module) -> Photos:
    """The photos, each with one class to learn: of several, the one that `network` finds most probable.

    Pseudo-labels (Lee 2013, "Pseudo-Label"), for partial labels. Without them the network divides its confidence among
    the classes, three of them for a shoe, and is too low. They are made once an epoch from the average of the weights:
    with the most probable class of each step, nearly all photos of shoes became sneakers, or sandals.
    """
    assert photos.learned is not None
    several = (photos.learned.sum(dim=1) > 1).nonzero().flatten()
    network.eval()
    learned = photos.learned.clone()
    for chosen in torch.split(several, PSEUDO_LABEL_BATCH):
        logits = network(photos.pixels[chosen])
        most_probable = logits.masked_fill(~photos.learned[chosen], -torch.inf).argmax(dim=1)
        learned[chosen] = functional.one_hot(most_probable, len(CLASSES)).bool()
    return replace(photos, learned=learned)


def load(folder: Path, shape: tuple[int, ...] = PHOTO_SHAPE) -> Photos:
    """The photos in `folder`: one folder for each class, or several folders that classes.json explains.

    classes.json gives for each folder the names of the right classes, and [] if none is right. The pixels are those
    that the service computes for a network of images of `shape`; for the photo network, pictures that the service
    takes for images of Fashion-MNIST are left out. Raises DataError.
    """
    classes = read_classes(folder)
    pixels, right, folders = [], [], []
    for name, names in sorted(classes.items()):
        for path in sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES):
            try:
                found = prepare(path.read_bytes(), photos=shape == PHOTO_SHAPE).pixels
            except (PictureError, OSError) as error:
                raise DataError(f"{path} cannot be used: {error} Remove it, or replace it.") from error
            if found.shape == shape:
                pixels.append(found)
                right.append([each in names for each in CLASSES])
                folders.append(name)
    if len(pixels) < MIN_PHOTOS:
        raise DataError(f"{folder} holds {len(pixels)} photos; at least {MIN_PHOTOS} are needed.")
    marks = torch.tensor(right)
    learned = marks.clone()
    for several, narrower in LEARNED.items():
        mark, narrow = (torch.tensor([name in names for name in CLASSES]) for names in (several, narrower))
        learned[(marks == mark).all(dim=1)] = narrow
    labels = torch.where(marks.any(dim=1), marks.int().argmax(dim=1), -1)
    stacked = np.stack(pixels)
    digest = hashlib.sha256(stacked.tobytes() + marks.numpy().tobytes()).hexdigest()
    return Photos(torch.from_numpy(stacked), labels, None, marks, learned, None, tuple(folders), digest)


def read_classes(folder: Path) -> dict[str, list[str]]:
    """The right classes of each folder in `folder`. Raises DataError."""
    try:
        text = (folder / CLASSES_FILE).read_text("utf-8")
    except FileNotFoundError:
        return classes_by_name(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / CLASSES_FILE} cannot be read.") from error
    try:
        classes = json.loads(text)
    except ValueError as error:
        raise DataError(f"{folder / CLASSES_FILE} is not valid JSON: {error}.") from error
    if not isinstance(classes, dict) or not all(isinstance(names, list) for names in classes.values()):
        raise DataError(f"{folder / CLASSES_FILE} must give a list of classes for each folder.")
    for name, names in classes.items():
        if unknown := [each for each in names if each not in CLASSES]:
            raise DataError(f"{folder / CLASSES_FILE} has the class {unknown[0]!r}; known are {', '.join(CLASSES)}.")
        if Path(name).name != name or not (folder / name).is_dir():
            raise DataError(f"{folder} has no folder {name!r}, which {CLASSES_FILE} names.")
    return classes


def classes_by_name(folder: Path) -> dict[str, list[str]]:
    """One folder for each class, by its name in any case and punctuation, as t-shirt or Ankle_boot."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
    classes = {}
    for name in names:
        found = FOLDERS.get("".join(filter(str.isalnum, name.lower())))
        if found is None:
            raise DataError(f"{folder / name} is not named like a class ({', '.join(CLASSES)}); add a {CLASSES_FILE}.")
        classes[name] = [found]
    return classes


def split(photos: Photos, validation_photos: int, test_photos: int, seed: int) -> tuple[Photos, Photos, Photos]:
    """Splits at random, by `seed`, into photos to train on, to calibrate on, and to test on.

    Of the latter two at most a tenth each.
    """
    validation_photos, test_photos = (min(count, len(photos) // 10) for count in (validation_photos, test_photos))
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(seed))
    bounds = (0, test_photos, test_photos + validation_photos, len(photos))
    test, validation, training = (choose(photos, order[start:end]) for start, end in pairwise(bounds))
    return training, validation, test


def load_parts(folder: Path, recipe: "Recipe", seed: int, fashion: Images) -> tuple[Photos, Photos, Photos]:
    """Photos to train on, with images of Fashion-MNIST beside them, to calibrate on, and to test on, on the device of
    `fashion`. Of the latter two, only those of which a class is right. Raises DataError."""
    device = fashion.pixels.device
    training, validation, test = split(load(folder), recipe.validation_photos, recipe.test_photos, seed)
    training = replace(training, fashion=fashion)
    return training.to(device), answerable(validation).to(device), answerable(test).to(device)


def answerable(photos: Photos) -> Photos:
    """The photos of which a class is right."""
    return choose(photos, photos.marks.any(dim=1).nonzero().flatten())


def choose(photos: Photos, index: Tensor) -> Photos:
    folders = tuple(photos.folders[number] for number in index.tolist())
    return replace(photos[index], folders=folders)


def photo_batch(recipe: "Recipe", photos: Photos, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented photos and painted images of Fashion-MNIST, uint8 [N+M,3,160,160], and the classes to learn of them,
    bool [N+M,10]. N photos are chosen, int64 [N]; M is recipe.fashion_images, in proportion for a smaller batch."""
    assert photos.fashion is not None
    assert photos.learned is not None
    images = augmentation.warp(photos.pixels[chosen].float(), generator, (0.75, 1.35), 0.12)
    images = augmentation.coarsen(augmentation.change_colours(images, generator), generator)
    count = max(1, recipe.fashion_images * len(chosen) // recipe.batch_size)
    others = torch.randint(len(photos.fashion), (count,), generator=generator, device=generator.device)
    fashion = photos.fashion[others.to(chosen.device)]
    painted = augmentation.paint(fashion.pixels, generator)
    learned = torch.cat([photos.learned[chosen], functional.one_hot(fashion.labels, len(CLASSES)).bool()])
    return torch.cat([images, painted]).round().byte(), learned
