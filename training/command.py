"""What the three commands share: arguments refused in one sentence, errors as exit codes, the closing line of JSON."""

import argparse
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

CHECKPOINT = Path("models/model_scratch.pt")
INTERRUPTED = 130  # exit code, as a shell reports SIGINT


class TrainingError(Exception):
    """A run cannot start or go on; one sentence."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a wrong argument in one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return value

    number.__name__ = kind.__name__  # argparse names it when `kind` refuses the text
    return number


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 2**63 - 1")
    return value


def add_device_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda, then mps, then cpu")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the four Fashion-MNIST files")


def check_writable(flag: str, output: Path) -> None:
    """Finds out before the training whether its result can be written. Raises TrainingError."""
    try:
        if output.exists() and not output.is_file():
            raise TrainingError(f"{flag} {output} is a folder or a device; name a file.")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise TrainingError(f"{flag} {output} cannot be written: {error.strerror}.") from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: what is left to do takes seconds, and the run would be lost."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def execute(story: Callable[[], dict[str, Any] | None]) -> int:
    """Runs `story`, prints what it returns as the last line of standard output, and gives the exit code.

    An `exit_code` in what it returns is not printed, and of several processes only one returns something.
    """
    try:
        result = story()
    except (CheckpointError, DataError, DeviceError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    if result is None:
        return 0
    exit_code = result.pop("exit_code", 0)
    print(json.dumps(result), flush=True)
    return int(exit_code)
