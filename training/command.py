"""What the three commands share: arguments refused in one sentence, errors as exit codes, the closing line of JSON."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from training.classifier.checkpoint import CheckpointError
from training.classifier.classifier import DEVICES, DeviceError
from training.data import DataError

CHECKPOINT = Path("models/model_scratch.pt")
INTERRUPTED = 130  # exit code, as a shell reports SIGINT


class TrainingError(Exception):
    """A run cannot start or go on; one sentence."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that answers a wrong argument in one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def add_device_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: cuda, then mps, then cpu")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the four Fashion-MNIST files")


def execute(story: Callable[[], dict[str, Any]]) -> int:
    """Runs `story`, prints what it returns as the last line of standard output, and gives the exit code.

    An `exit_code` in what it returns is not printed.
    """
    try:
        result = story()
    except (CheckpointError, DataError, DeviceError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    exit_code = result.pop("exit_code", 0)
    print(json.dumps(result), flush=True)
    return int(exit_code)
