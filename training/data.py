"""Finds, verifies or downloads the data set, Fashion-MNIST, and keeps it on the training device.

The whole data set is 55 MB of uint8. It stays on the device as a few tensors, and a batch is an index into them.
"""

import gzip
import hashlib
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Self
from urllib.error import URLError

import torch
from torch import Tensor
from torch.nn import functional

from classifier.networks import CLASSES, SIDE, Pixels

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
DOWNLOAD_DIR = Path("data")
TORCHVISION_LAYOUT = Path("FashionMNIST", "raw")  # torchvision's folder of the files, below its root

SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
COUNTS = {"train": 60_000, "t10k": 10_000}  # images
TRAINING_FILES, TEST_FILES = (tuple(name for name in SHA256 if name.startswith(split)) for split in COUNTS)
IMAGES_HEADER, LABELS_HEADER = struct.Struct(">4I"), struct.Struct(">2I")  # of IDX: magic number, then each dimension
IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801
BYTES = {  # of the same files; decompression stops after that many
    name: LABELS_HEADER.size + COUNTS[name.partition("-")[0]]
    if "labels" in name
    else IMAGES_HEADER.size + COUNTS[name.partition("-")[0]] * SIDE * SIDE
    for name in SHA256
}
READ_TIMEOUT_SECONDS = 30.0  # of a download, without a byte
MANUAL_DOWNLOAD = (
    "download the four files "
    + ", ".join(f"{name}.gz" for name in SHA256)
    + " from https://github.com/zalandoresearch/fashion-mnist and pass their folder with --data-dir"
)


class DataError(Exception):
    """The data set is not available; the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class Images:
    """Labelled images on one device."""

    pixels: Tensor  # uint8 [N,1,28,28], 0 = background
    labels: Tensor  # int64 [N], 0…9
    teacher_logits: Tensor | None = None  # float32 [N,10], for knowledge distillation

    def __len__(self) -> int:
        return len(self.labels)

    def losses(self, logits: Tensor) -> Tensor:
        """The cross-entropy of each image, float32 [N], in nats, of logits, float32 [N,10]."""
        return functional.cross_entropy(logits, self.labels, reduction="none")

    @property
    def marks(self) -> Tensor:
        """The right classes, bool [N,10]."""
        return functional.one_hot(self.labels, len(CLASSES)).bool()

    def is_right(self, classes: Tensor) -> Tensor:
        """Whether each of `classes`, int64 [N], is right, bool [N]."""
        return self.marks.gather(1, classes[:, None]).squeeze(1)

    def array(self) -> Pixels:
        """The pixels as a NumPy array, uint8 [N,1,28,28], the input of Classifier."""
        return self.pixels.cpu().numpy()

    def __getitem__(self, index: Tensor | slice) -> Self:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Self:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        teacher_logits = None if self.teacher_logits is None else change(self.teacher_logits)
        return replace(self, pixels=change(self.pixels), labels=change(self.labels), teacher_logits=teacher_logits)

    def batches(self, size: int) -> Iterator[Self]:
        """The images in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def load(data_dir: Path | None = None) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images, on the CPU.

    Reads `data_dir` if given, else Debian's folder, else ./data, into which it downloads them if they are missing.
    Raises DataError.
    """
    folder = locate(data_dir, tuple(SHA256))
    return read_images(folder, TRAINING_FILES), read_images(folder, TEST_FILES)


def load_test(data_dir: Path | None = None) -> Images:
    """The 10,000 test images alone, from the same places. Raises DataError."""
    return read_images(locate(data_dir, TEST_FILES), TEST_FILES)


def locate(data_dir: Path | None, names: Collection[str]) -> Path:
    """The folder with the files `names`. Raises DataError."""
    if data_dir is None:
        return find_folder(DEBIAN_DIR, names) or find_folder(DOWNLOAD_DIR, names) or download(DOWNLOAD_DIR)
    if folder := find_folder(data_dir, names):
        return folder
    missing = min((missing_files(folder, names) for folder in folders(data_dir)), key=len)
    raise DataError(f"{data_dir} does not hold {', '.join(missing)} (or .gz): {MANUAL_DOWNLOAD}.")


def folders(root: Path) -> tuple[Path, ...]:
    """Where the files may be: in `root`, or in torchvision's folder below it."""
    return root, root / TORCHVISION_LAYOUT, root / "raw"


def find_folder(root: Path, names: Collection[str] = tuple(SHA256)) -> Path | None:
    """The folder with all files `names`, raw or gzipped: `root` or torchvision's below it. Raises DataError."""
    try:
        return next((folder for folder in folders(root) if not missing_files(folder, names)), None)
    except OSError as error:  # no permission
        raise DataError(f"{root} cannot be read: {error.strerror}.") from error


def missing_files(folder: Path, names: Collection[str]) -> list[str]:
    return [name for name in names if not find_file(folder, name)]


def find_file(folder: Path, name: str) -> Path | None:
    """The file `name`, raw or gzipped; some programs write a dot in its name, as in train-images.idx3-ubyte."""
    dotted = name.replace("-idx", ".idx")
    paths = (folder / each for each in (name, f"{name}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in paths if path.is_file()), None)


def read_images(folder: Path, names: tuple[str, ...]) -> Images:
    """The images of a file of pixels and a file of labels in `folder`, which are verified. Raises DataError."""
    pixels, labels = (torch.frombuffer(bytearray(read_verified(folder, name)), dtype=torch.uint8) for name in names)
    return Images(pixels[IMAGES_HEADER.size :].view(-1, 1, SIDE, SIDE), labels[LABELS_HEADER.size :].long())


def read_verified(folder: Path, name: str) -> bytes:
    """The uncompressed content of the file `name`, raw or gzipped, if its SHA-256 is right. Raises DataError."""
    path = find_file(folder, name)
    if path is None:
        raise DataError(f"{folder} does not hold {name}: {MANUAL_DOWNLOAD}.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(BYTES[name] + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: delete it and run again, or {MANUAL_DOWNLOAD}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        if (found := describe_idx(content)) and found != (expected := describe_expected(name)):
            raise DataError(f"{path} holds {found}; the file of Fashion-MNIST holds {expected}: {MANUAL_DOWNLOAD}.")
        raise DataError(
            f"{path} is not the file of Fashion-MNIST (SHA-256 {digest[:12]}… instead of {SHA256[name][:12]}…): "
            f"delete it and run again, or {MANUAL_DOWNLOAD}."
        )
    return content


def describe_idx(content: bytes) -> str:
    """What an IDX file holds, by its header; "" for another file."""
    if len(content) >= IMAGES_HEADER.size and (header := IMAGES_HEADER.unpack_from(content))[0] == IMAGES_MAGIC:
        _, count, height, width = header
        return f"{count:,} images of {width}×{height}"
    if len(content) >= LABELS_HEADER.size and (header := LABELS_HEADER.unpack_from(content))[0] == LABELS_MAGIC:
        return f"{header[1]:,} labels"
    return ""


def describe_expected(name: str) -> str:
    count = COUNTS[name.partition("-")[0]]
    return f"{count:,} labels" if "labels" in name else f"{count:,} images of {SIDE}×{SIDE}"


def download(root: Path) -> Path:
    """Downloads with torchvision into a temporary folder in `root`, verifies the files and moves them into place.

    Raises DataError.
    """
    try:
        from torchvision.datasets import FashionMNIST
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise DataError(
            f"torchvision cannot be loaded beside PyTorch {torch.__version__}: install both from one place, as "
            f"docs/development.md says, or {MANUAL_DOWNLOAD}."
        ) from error
    previous_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(READ_TIMEOUT_SECONDS)  # torchvision sets no timeout
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as unfinished:
            FashionMNIST(unfinished, download=True)
            for name in SHA256:
                read_verified(Path(unfinished) / TORCHVISION_LAYOUT, name)
            (root / TORCHVISION_LAYOUT).mkdir(parents=True, exist_ok=True)
            for file in (Path(unfinished) / TORCHVISION_LAYOUT).iterdir():
                file.replace(root / TORCHVISION_LAYOUT / file.name)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise DataError(f"Fashion-MNIST could not be downloaded, no network: {MANUAL_DOWNLOAD}.") from error
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST could not be downloaded into {root}: {error.strerror}; fix that, or {MANUAL_DOWNLOAD}."
        ) from error
    except (RuntimeError, EOFError, zlib.error) as error:  # torchvision, when no mirror gave the right file
        raise DataError(
            f"Fashion-MNIST could not be downloaded (no network, or a damaged file): {MANUAL_DOWNLOAD}."
        ) from error
    finally:
        socket.setdefaulttimeout(previous_timeout)
    return root / TORCHVISION_LAYOUT


def split(images: Images, validation_images: int, seed: int) -> tuple[Images, Images]:
    """Splits at random, by `seed`, into training images and the given number of validation images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[validation_images:]], images[order[:validation_images]]
