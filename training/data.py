"""Finds, verifies or downloads Fashion-MNIST and holds it on the training device.

The whole set is 55 MB of uint8, so it lives on the device as a few tensors and a batch is an index into them.
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

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")  # what Debian's package dataset-fashion-mnist installs
DOWNLOAD_DIR = Path("data")
LAYOUT = Path("FashionMNIST", "raw")  # where torchvision keeps the files below its root

SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
BYTES = {  # of the same files: a decompression never goes past this
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}
SILENCE_SECONDS = 30.0  # of a mirror, before it is given up
BY_HAND = (
    "get the four files "
    + ", ".join(f"{name}.gz" for name in SHA256)
    + " yourself and pass their folder with --data-dir"
)


class DataError(Exception):
    """The data set cannot be had; the message says why and what to do, in one sentence."""


@dataclass(frozen=True)
class Images:
    """Labelled images on one device: `pixels` uint8 [N,1,28,28] in 0…255, `labels` int64 [N] in 0…9.

    Where a teacher was asked, `answers` are its logits, float32 [N,10].
    """

    pixels: Tensor
    labels: Tensor
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def array(self) -> Pixels:
        """The pixels as a NumPy array, uint8 [N,1,28,28], as Classifier takes them."""
        return self.pixels.cpu().numpy()

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> "Images":
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Images":
        answers = None if self.answers is None else change(self.answers)
        return Images(change(self.pixels), change(self.labels), answers)

    def batches(self, size: int) -> "Iterator[Images]":
        """The images in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def load(data_dir: Path | None = None) -> tuple[Images, Images]:
    """The 60,000 training and the 10,000 test images, on the CPU.

    Looks in `data_dir` if one is given, else in Debian's folder, else in ./data, and downloads into the last.
    Raises DataError.
    """
    if data_dir is not None:
        folder = holding_folder(data_dir)
        if folder is None:
            raise DataError(f"{data_dir} does not hold all four files of Fashion-MNIST: {BY_HAND}.")
    else:
        folder = holding_folder(DEBIAN_DIR) or holding_folder(DOWNLOAD_DIR) or download(DOWNLOAD_DIR)
    return parse(folder)


def holding_folder(root: Path) -> Path | None:
    """`root` or torchvision's folder below it, whichever holds all four files, raw or gzipped. Raises DataError."""
    try:
        for folder in (root, root / LAYOUT, root / "raw"):
            if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in SHA256):
                return folder
    except OSError as error:  # a folder that may not be looked into
        raise DataError(f"{root} cannot be read: {error.strerror}.") from error
    return None


def parse(folder: Path) -> tuple[Images, Images]:
    """The training and the test images from the verified files in `folder`. Raises DataError."""
    try:
        with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as root:
            (Path(root) / LAYOUT).mkdir(parents=True)
            for name in SHA256:
                (Path(root) / LAYOUT / name).write_bytes(verified(folder, name))
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


def verified(folder: Path, name: str) -> bytes:
    """The uncompressed content of the file `name`, from its raw or gzipped form. Raises DataError."""
    path = folder / name
    if not path.is_file():
        path = folder / f"{name}.gz"
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(BYTES[name] + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: delete it and run again, or {BY_HAND}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(
            f"{path} is not Fashion-MNIST's (SHA-256 {digest[:12]}… instead of {SHA256[name][:12]}…): "
            f"delete it and run again, or {BY_HAND}."
        )
    return content


def download(root: Path) -> Path:
    """Downloads with torchvision into a temporary folder in `root`, verifies, moves into place. Raises DataError."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)  # torchvision would wait for a silent mirror for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as unfinished:
            FashionMNIST(unfinished, download=True)
            for name in SHA256:
                verified(Path(unfinished) / LAYOUT, name)
            (root / LAYOUT).mkdir(parents=True, exist_ok=True)
            for file in (Path(unfinished) / LAYOUT).iterdir():
                file.replace(root / LAYOUT / file.name)
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise DataError(f"Fashion-MNIST could not be downloaded, no network: {BY_HAND}.") from error
    except OSError as error:
        raise DataError(
            f"Fashion-MNIST could not be downloaded into {root}: {error.strerror}; mend that, or {BY_HAND}."
        ) from error
    except (RuntimeError, EOFError, zlib.error) as error:  # torchvision: no mirror gave the right file
        raise DataError(
            f"Fashion-MNIST could not be downloaded (no network, or it arrived broken): {BY_HAND}."
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return root / LAYOUT


def split(images: Images, held_out: int, seed: int) -> tuple[Images, Images]:
    """All but `held_out` of the images to train on, and the `held_out` others, drawn at random by `seed`."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[held_out:]], images[order[:held_out]]
