"""Files of `torch.save`: written atomically, and read without executing anything in them."""

import hashlib
import io
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ZIP_SIGNATURE = b"PK\x03\x04"  # torch.load reads files without it in its old format, which has no checksums
MAX_BYTES = 2**30  # 1 GiB, far above the largest network of any recipe
# Exceptions that torch.load and zipfile raise on malformed bytes.
MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class CheckpointError(Exception):
    """A checkpoint cannot be read or written.

    The message is one sentence for clients: the file's name (never its path), what was found, what was expected.
    """


def write(values: dict[str, Any], path: Path) -> str:
    """Writes `path` atomically (temporary name, fsync, replace) and returns the SHA-256 of the file.

    Raises CheckpointError; an old file at `path` then stays as it was.
    """
    buffer = io.BytesIO()
    torch.save(values, buffer)
    content = buffer.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path.name} could not be written: {error.strerror}.") from error
    finally:  # also after Ctrl-C
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # makes the rename survive a power cut; not every file system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return hashlib.sha256(content).hexdigest()


def read(path: Path, advice: str = "") -> bytes:
    """The bytes of the regular file at `path`, at most MAX_BYTES. Raises CheckpointError.

    `advice` is added to the message if there is no such file.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path.name} does not exist{advice}.")
        if not path.is_file():
            raise CheckpointError(f"{path.name} is not a regular file.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise CheckpointError(f"{path.name} has {size:,} bytes, over the limit of {MAX_BYTES:,}.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}.") from error


def unpack(content: bytes, name: str) -> dict[str, Any]:
    """The dict in the bytes of a file of `torch.save`. Raises CheckpointError.

    PyTorch parses the archive only if no member is compressed and every checksum is right.
    """
    if not content:
        raise CheckpointError(f"{name} is empty.")
    check_archive(content, name)
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name} has more in it than tensors and plain values, or is damaged; nothing in it was run. "
            "Save model.state_dict() instead of the model."
        ) from error
    except MALFORMED as error:
        raise CheckpointError(f"{name} is a zip archive, but PyTorch cannot read a checkpoint from it.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} has a {type(found).__name__} in it; expected a dict as `training.run` saves it.")
    return dict(dict.items(found))  # in a subclass of dict, an attribute from the file may hide a method


def check_archive(content: bytes, name: str) -> None:
    """Checks that `content` is an uncompressed zip archive with correct checksums. Raises CheckpointError."""
    try:
        if not content.startswith(ZIP_SIGNATURE):
            raise zipfile.BadZipFile
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise CheckpointError(f"{name} is a compressed zip archive, not a PyTorch checkpoint.")
            if damaged := archive.testzip():
                raise CheckpointError(f"{name} is damaged: the checksum of its part {damaged!r} is wrong.")
    except MALFORMED as error:  # which one depends on Python's version
        raise CheckpointError(f"{name} is not a PyTorch checkpoint, or it is cut short: not a zip archive.") from error
