"""A file of `torch.save`: written whole or not at all, and read without running anything in it."""

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

ZIP_SIGNATURE = b"PK\x03\x04"  # without it torch.load would read its old format, which has no checksums
MAX_BYTES = 2**30  # 1 GiB: larger than any network that makes sense here
# What torch.load and the zip reader raise on bytes that are not what they should be.
MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class CheckpointError(Exception):
    """A checkpoint cannot be read or written.

    One sentence for clients: the file's name (never its path), what was found, what was expected.
    """


def write(found: dict[str, Any], path: Path) -> str:
    """Writes `path` atomically (temporary name, fsync, replace) and returns the SHA-256 of the file.

    Raises CheckpointError; whatever stood at `path` is then unharmed.
    """
    buffer = io.BytesIO()
    torch.save(found, buffer)
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
    finally:  # Ctrl-C, too, leaves nothing half-written
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # where folders can be synced, the new name itself survives a power cut
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return hashlib.sha256(content).hexdigest()


def read(path: Path, advice: str = "") -> bytes:
    """The bytes of a regular file of sensible size; `advice` is for whoever has none. Raises CheckpointError."""
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
    """The dict in the bytes of a checkpoint. The archive is checked first: nothing compressed, every CRC right."""
    if not content:
        raise CheckpointError(f"{name} is empty.")
    try:
        if not content.startswith(ZIP_SIGNATURE) or not zipfile.is_zipfile(io.BytesIO(content)):
            raise CheckpointError(f"{name} is not a PyTorch checkpoint, or it is cut short: not a zip archive.")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise CheckpointError(f"{name} is a compressed zip archive, not a PyTorch checkpoint.")
            if damaged := archive.testzip():
                raise CheckpointError(f"{name} is damaged: the checksum of its part {damaged!r} is wrong.")
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name} holds something else than tensors and plain values, or is damaged; nothing in it was run. "
            "Save model.state_dict() rather than the model."
        ) from error
    except MALFORMED as error:
        raise CheckpointError(f"{name} is a zip archive, but PyTorch cannot read a checkpoint from it.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} holds a {type(found).__name__}; expected a dict as `training.run` saves it.")
    return dict(dict.items(found))  # plain: a subclass may hide its methods behind attributes
