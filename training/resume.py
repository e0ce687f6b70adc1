"""The side file beside a run's output: with it, `--resume` lets a run that was killed go on after its last epoch."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from classifier import torch_file
from training.command import TrainingError
from training.recipes import Recipe

VERSION = 1  # of what the file holds; another cannot be gone on from
MAX_SHARE = 0.05  # of a run's time on a GPU that may go into writing it: an epoch can be shorter than a write


class SideFile:
    """`model.pt.resume`, for a run that writes `model.pt`.

    It is the run's own: one of another recipe, seed, version or number of processes is refused.
    """

    def __init__(self, output: Path, recipe: Recipe, seed: int, processes: int) -> None:
        self.path = output.with_name(f"{output.name}.resume")
        self._run: dict[str, Any] = {"version": VERSION, "torch": str(torch.__version__), "recipe": recipe.name}
        self._run |= {"seed": seed, "processes": processes, **vars(recipe)}
        self._due = 0.0  # by time.perf_counter

    def exists(self) -> bool:
        return self.path.is_file()

    def is_due(self) -> bool:
        """Whether so much time has passed since it was last written that it may be again."""
        return time.perf_counter() >= self._due

    def write(self, state: dict[str, Any]) -> None:
        """Keeps `state`, all that changes while a run goes on. Raises CheckpointError; the last is then unharmed."""
        begin = time.perf_counter()
        torch_file.write({"run": self._run, "state": state}, self.path)
        end = time.perf_counter()
        self._due = end + (end - begin) / MAX_SHARE

    def read(self) -> dict[str, Any]:
        """The state that `write` kept last. Raises CheckpointError, TrainingError."""
        found = torch_file.unpack(torch_file.read(self.path), self.path.name)
        run, state = found.get("run"), found.get("state")
        if not isinstance(run, dict) or not isinstance(state, dict):
            raise TrainingError(
                f"{self.path.name} was not left by a training run; remove it, or leave --resume away, to start anew."
            )
        for name, value in self._run.items():
            if run.get(name) != value:
                raise TrainingError(
                    f"{self.path.name} was left by a run with {name} {run.get(name)}, and this one has {value}; "
                    "repeat that run's arguments; remove it, or leave --resume away, to start anew."
                )
        return state

    def remove(self) -> None:
        """Removes it, and what a run that was killed while it wrote has left of it."""
        with suppress(OSError):
            for leftover in (self.path, *self.path.parent.glob(f".{self.path.name}.*.tmp")):
                leftover.unlink(missing_ok=True)
