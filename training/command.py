"""Shared by the three commands: argument parsing, errors as one sentence and an exit code, the last line of JSON."""

import argparse
import io
import json
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from classifier.checkpoint import CheckpointError
from classifier.classifier import DEVICES, DeviceError
from training.data import DataError
from training.progress import printable

CHECKPOINT = Path("models/model_scratch.pt")
PHOTO_CHECKPOINT = Path("models/photos.pt")
INTERRUPTED = 130  # exit code after Ctrl-C, as shells report SIGINT
# In the messages of PyTorch, CUDA, OpenVINO and C++ when memory is full; most are plain RuntimeErrors.
OUT_OF_MEMORY = (
    "out of memory", "allocate memory", "not enough memory", "bad_alloc", "bad allocation", "alloc_failed",
)  # fmt: skip


class TrainingError(Exception):
    """A run cannot start or continue; the message is one sentence."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a wrong argument in one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"{self.prog}: {message} (--help lists the arguments)") + "\n")


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """An argparse type: a finite number of that kind, greater than 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return value

    number.__name__ = kind.__name__  # argparse prints it when `kind` refuses the text
    return number


def seed(text: str) -> int:
    """An argparse type: a seed that PyTorch accepts."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 2**63 - 1")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="device of the network (default: auto, the first available of cuda, mps, cpu)",
    )


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder with the four Fashion-MNIST files (default: Debian's package dataset-fashion-mnist, else ./data, "
        "else a download into ./data)",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="folder to write report.html and its figures into (default: none)"
    )


def check_writable(flag: str, output: Path) -> None:
    """Fails before training, not after it, if the result cannot be written. Raises TrainingError."""
    try:
        if output.exists() and not output.is_file():
            raise TrainingError(f"{flag} {output} is a folder or a device; name a file.")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise TrainingError(f"{flag} {output} cannot be written: {error.strerror}.") from error


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignores Ctrl-C while the result is saved: that takes seconds, and an interrupt would lose the run."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def execute(command: Callable[[], dict[str, Any] | None]) -> int:
    """Runs `command`, prints its result as the last line of standard output, in JSON, and returns the exit code.

    An `exit_code` in the result is returned and not printed. Of several processes, all but the main one return None.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack a character of a file's name
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = command()
    except Exception as error:
        message = sentence(error)
        if not message:
            raise
        print(printable(f"error: {message}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    if result is None:
        return 0
    exit_code = result.pop("exit_code", 0)
    print(json.dumps(result), flush=True)
    return int(exit_code)


def sentence(error: BaseException) -> str:
    """The sentence about an error that a run can meet, "" for one that is a fault of the program."""
    if isinstance(error, CheckpointError):
        return error.with_path()
    if isinstance(error, DataError | DeviceError | TrainingError):
        return str(error)
    if is_out_of_memory(error):
        return (
            "there is not enough memory: end other programs, choose another --device, or train with a smaller "
            "--batch-size."
        )
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the computer or of the GPU was full."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in OUT_OF_MEMORY)
