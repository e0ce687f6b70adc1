"""Files of `torch.save`: written atomically, and read without executing anything in them, within bounds."""

import hashlib
import io
import os
import stat
import struct
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from reprlib import Repr
from typing import Any

import torch

from classifier.file_formats import describe_archive, describe_format, is_safetensors
from classifier.pickle_reader import MAX_OPERATIONS, ForeignClass, PickleError, PickleReader

MAX_BYTES = 128 * 2**20  # 128 MiB, of a checkpoint and of its network; the largest of a recipe has 31 MB
TRUSTED_BYTES, TRUSTED_OPERATIONS = (
    2**30,
    10**6,
)  # limits for a user's own files: to resume from, and of ImageNet weights
MAX_MEMBERS = 8192  # of an archive: one a tensor, and a few
MAX_DIRECTORY_BYTES = 2**20  # 1 MiB, of an archive's list of members
MAX_SAFETENSORS_HEADER = 2**20  # 1 MiB
PART_BYTES = 2**20  # 1 MiB, copied at a time: Python holds its lock, and the service's event loop waits
ZIP_SIGNATURE = b"PK\x03\x04"
# Exceptions that malformed bytes cause.
MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError,
    RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
SHORTENED = Repr()
SHORTENED.maxstring = SHORTENED.maxother = 80  # characters
shortened = SHORTENED.repr  # of a value from a file, for a sentence


class CheckpointError(Exception):
    """A checkpoint cannot be read or written.

    The message is one sentence for clients: the file's name (never its path), what was found, what was expected.
    """

    path: Path | None = None  # as it was given, for logs and the command line

    def with_path(self) -> str:
        """The message with the path of the file instead of its name."""
        message = str(self)
        if self.path and message.startswith(self.path.name):
            return f"{self.path}{message.removeprefix(self.path.name)}"
        return message


class UnreadableFile(CheckpointError):
    """The operating system does not give the file, which may pass: permissions, too many open files, no file."""


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


def read(path: Path, advice: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of the regular file at `path`, at most `max_bytes`. Raises CheckpointError, UnreadableFile.

    `advice` is added to the message if there is no such file. Does not wait for a pipe or a device.
    """
    try:
        with open(path, "rb", opener=open_without_blocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{path.name} is not a regular file.")
            content: bytes | None = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise UnreadableFile(f"{path.name} does not exist{advice}.") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path.name} is a folder and not a regular file.") from error
    except OSError as error:
        raise UnreadableFile(f"{path.name} cannot be read: {error.strerror}.") from error
    if content is None:
        raise UnreadableFile(f"{path.name} cannot be read without waiting for it.")
    if len(content) > max_bytes:
        raise CheckpointError(f"{path.name} is over the limit of {max_bytes:,} bytes.")
    return content


def open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def unpack(content: bytes, name: str, max_operations: int = MAX_OPERATIONS) -> dict[str, Any]:
    """The dict in the bytes of a file of `torch.save`, or of a safetensors file. Raises CheckpointError.

    Its tensors are dense, on the CPU, and no larger than their bytes in the file.
    """
    if not content:
        raise CheckpointError(f"{name} is empty.")
    if is_safetensors(content):
        return unpack_safetensors(content, name)
    if not content.startswith(ZIP_SIGNATURE):
        raise CheckpointError("{} is {}, which is not read: {}.".format(name, *describe_format(content)))
    try:
        found = read_archive(content, name, max_operations)
    except ForeignClass as error:
        raise CheckpointError(
            f"{name} has the class or function {shortened(str(error))} in it; nothing in it was run. "
            "Save model.state_dict() alone."
        ) from error
    except PickleError as error:
        raise CheckpointError(f"{name} {error}: save model.state_dict() alone.") from error
    except MALFORMED as error:
        raise CheckpointError(f"{name} is a zip archive, but no checkpoint can be read from it.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} has a {type(found).__name__} in it; expected a dict as `training.run` saves it.")
    return found


def read_archive(content: bytes, name: str, max_operations: int) -> Any:
    """The value in an archive of `torch.save`. Raises CheckpointError, PickleError and those of MALFORMED."""
    try:
        archive = open_archive(content, name)
        damaged = archive.testzip()
    except MALFORMED as error:  # which one depends on Python's version
        raise CheckpointError(f"{name} is a zip archive that is cut short or damaged: copy it again.") from error
    if damaged:
        raise CheckpointError(f"{name} is damaged: the checksum of its part {shortened(damaged)} is wrong.")
    names = archive.namelist()
    [pickle] = (each for each in names if each.endswith("/data.pkl") and each.count("/") == 1)
    folder = pickle.partition("/")[0]
    if f"{folder}/byteorder" in names:
        with archive.open(f"{folder}/byteorder") as member:
            order = member.read(10)  # not all of it, which may be as large as the file
        if order != sys.byteorder.encode():
            raise CheckpointError(f"{name} was saved on a computer of another byte order: save it again on this one.")

    def record(key: str) -> bytearray:
        content = bytearray()
        with archive.open(f"{folder}/data/{key}") as member:
            while part := member.read(PART_BYTES):
                content += part
        return content

    return PickleReader(record, max_operations).read(archive.read(pickle))


def open_archive(content: bytes, name: str) -> zipfile.ZipFile:
    """The archive, of few members, not compressed, that are together no larger than it. Raises CheckpointError."""
    # Before zipfile reads the list of members, which would take 500 bytes for each. zip64's record of it comes before.
    sizes = [*struct.unpack("<L", content[-10:-6])]
    if content[-42:-38] == b"PK\x06\x07":
        sizes += struct.unpack("<Q", content[-58:-50])
    if content[-22:-18] != b"PK\x05\x06" or content[-2:] != b"\0\0":
        raise zipfile.BadZipFile("no end of an archive")
    if max(sizes) <= MAX_DIRECTORY_BYTES:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = archive.infolist()
    if max(sizes) > MAX_DIRECTORY_BYTES or len(members) > MAX_MEMBERS:
        raise CheckpointError(f"{name} is an archive of over {MAX_MEMBERS:,} parts; expected one a tensor.")
    if other := describe_archive([member.filename for member in members]):
        raise CheckpointError("{} is {}, which is not read: {}.".format(name, *other))
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{name} is a compressed zip archive, not a PyTorch checkpoint: unpack it first.")
    if (size := sum(member.file_size for member in members)) > len(content):
        raise CheckpointError(f"{name} has {len(content):,} bytes, but its parts claim {size:,}.")
    return archive


def unpack_safetensors(content: bytes, name: str) -> dict[str, Any]:
    """The tensors of a safetensors file by name. Raises CheckpointError."""
    if int.from_bytes(content[:8], "little") > MAX_SAFETENSORS_HEADER:
        raise CheckpointError(f"{name} is a safetensors file with a header of over {MAX_SAFETENSORS_HEADER:,} bytes.")
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise CheckpointError(
            f"{name} is a safetensors file: pip install safetensors, or save it with "
            "torch.save(model.state_dict(), PATH)."
        ) from error
    try:
        tensors: dict[str, Any] = load(content)
    except Exception as error:  # safetensors has an exception of its own, which needs the library to name
        raise CheckpointError(f"{name} is a safetensors file that is damaged: copy it again.") from error
    return tensors
