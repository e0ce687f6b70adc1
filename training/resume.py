"""The resume file beside a run's checkpoint: with it, `--resume` continues a killed run after its last epoch."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from classifier import torch_file
from training.command import TrainingError
from training.distributed import Processes
from training.recipes import Recipe

VERSION = 2  # of the file's content; another version cannot be resumed
MAX_TIME_FRACTION = 0.05  # of a run on a GPU, spent on writing the file: there, an epoch can be shorter than a write


class ResumeFile:
    """`model.pt.resume` of a run that writes `model.pt`.

    It belongs to one run: a file of another version, recipe, seed or number of processes is refused.
    """

    def __init__(self, output: Path, recipe: Recipe, seed: int, processes: int) -> None:
        self.path = output.with_name(f"{output.name}.resume")
        self.run: dict[str, Any] = {"version": VERSION, "torch": str(torch.__version__), "recipe": recipe.name}
        self.run |= {"seed": seed, "processes": processes, **vars(recipe)}
        self._next_write = 0.0  # on the clock of time.perf_counter

    def find(self, dist: Processes) -> int | None:
        """The rank of the first process that has the file, None if none has: each machine can have a disk of its own.

        Usually the main process has it, which wrote it; after a restart it can be another machine's.
        """
        return next((rank for rank, exists in enumerate(dist.gather(self.path.is_file())) if exists), None)

    def is_due(self) -> bool:
        """Whether another write keeps the time spent on writing below MAX_TIME_FRACTION."""
        return time.perf_counter() >= self._next_write

    def write(self, state: dict[str, Any]) -> None:
        """Writes `state`, all that changes during a run. Raises CheckpointError; the previous file is then intact."""
        start = time.perf_counter()
        torch_file.write({"run": self.run, "state": state}, self.path)
        end = time.perf_counter()
        self._next_write = end + (end - start) / MAX_TIME_FRACTION

    def read(self) -> dict[str, Any]:
        """The state that was written last. Raises CheckpointError, TrainingError."""
        file = torch_file.read(self.path, max_bytes=torch_file.TRUSTED_BYTES)
        content = torch_file.unpack(file, self.path.name, torch_file.TRUSTED_OPERATIONS)
        run, state = content.get("run"), content.get("state")
        if not isinstance(run, dict) or not isinstance(state, dict):
            raise TrainingError(
                f"{self.path.name} is not a resume file of a training run; to start anew, delete it or omit --resume."
            )
        for name, value in self.run.items():
            if run.get(name) != value:
                raise TrainingError(
                    f"{self.path.name} was written by a run with {name} {run.get(name)}, and this one has {value}; "
                    "repeat that run's arguments, or, to start anew, delete it or omit --resume."
                )
        return state

    def read_for_all(self, rank: int, dist: Processes) -> dict[str, Any]:
        """The state that was written last, which the process of that rank reads. Raises as `read` does, in all."""
        with dist.all_or_none():
            state = self.read() if dist.rank == rank else {}
        return dist.broadcast(state, rank)

    def remove(self) -> None:
        """Deletes the file and the temporary files that killed runs left beside it."""
        with suppress(OSError):
            for leftover in (self.path, *self.path.parent.glob(f".{self.path.name}.*.tmp")):
                leftover.unlink(missing_ok=True)
