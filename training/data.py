"""Finds, verifies or downloads the data set, Fashion-MNIST, and keeps it on the training device.

The whole data set is 55 MB of uint8. It stays on the device as a few tensors, and a batch is an index into them.
"""

import gzip
import hashlib
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST

from classifier.networks import Pixels

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
DOWNLOAD_DIR = Path("data")
TORCHVISION_LAYOUT = Path("FashionMNIST", "raw")  # torchvision's folder of the files, below its root

SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
BYTES = {  # of the same files; decompression stops after that many
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
READ_TIMEOUT_SECONDS = 30.0  # of a download, without a byte
MANUAL_DOWNLOAD = (
    "download the four files " + ", ".join(f"{name}.gz" for name in SHA256) + " and pass their folder with --data-dir"
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

    def array(self) -> Pixels:
        """The pixels as a NumPy array, uint8 [N,1,28,28], the input of Classifier."""
        return self.pixels.cpu().numpy()

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> "Images":
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        teacher_logits = None if self.teacher_logits is None else change(self.teacher_logits)
        return Images(change(self.pixels), change(self.labels), teacher_logits)

    def batches(self, size: int) -> "Iterator[Images]":
        """The images in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def load(data_dir: Path | None = None) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images, on the CPU.

    Reads `data_dir` if given, else Debian's folder, else ./data, into which it downloads them if they are missing.
    Raises DataError.
    """
    if data_dir is not None:
        folder = find_folder(data_dir)
        if folder is None:
            raise DataError(f"{data_dir} does not hold all four files of Fashion-MNIST: {MANUAL_DOWNLOAD}.")
    else:
        folder = find_folder(DEBIAN_DIR) or find_folder(DOWNLOAD_DIR) or download(DOWNLOAD_DIR)
    return parse(folder)


def find_folder(root: Path) -> Path | None:
    """The folder with all four files, raw or gzipped: `root` or torchvision's below it. Raises DataError."""
    try:
        for folder in (root, root / TORCHVISION_LAYOUT, root / "raw"):
            if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in SHA256):
                return folder
    except OSError as error:  # no permission
        raise DataError(f"{root} cannot be read: {error.strerror}.") from error
    return None


def parse(folder: Path) -> tuple[Images, Images]:
    """The training and the test images of the files in `folder`, which are verified. Raises DataError."""
    try:
        with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as root:
            (Path(root) / TORCHVISION_LAYOUT).mkdir(parents=True)
            for name in SHA256:
                (Path(root) / TORCHVISION_LAYOUT / name).write_bytes(read_verified(folder, name))
            train, test = FashionMNIST(root, train=True), FashionMNIST(root, train=False)
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST could not be unpacked into the temporary folder: {error.strerror}; "
            "set TMPDIR to a folder with 60 MB of room."
        ) from error
    return (
        Images(train.data.unsqueeze(1), train.targets),
        Images(test.data.unsqueeze(1), test.targets),
    )


def read_verified(folder: Path, name: str) -> bytes:
    """The uncompressed content of the file `name`, raw or gzipped, if its SHA-256 is right. Raises DataError."""
    path = folder / name
    if not path.is_file():
        path = folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(BYTES[name] + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: delete it and run again, or {MANUAL_DOWNLOAD}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(
            f"{path} is not the file of Fashion-MNIST (SHA-256 {digest[:12]}… instead of {SHA256[name][:12]}…): "
            f"delete it and run again, or {MANUAL_DOWNLOAD}."
        )
    return content


def download(root: Path) -> Path:
    """Downloads with torchvision into a temporary folder in `root`, verifies the files and moves them into place.

    Raises DataError.
    """
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
