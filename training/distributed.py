"""Data-parallel training by several processes: `torchrun --nproc-per-node N -m training.run …`.

The processes may be on several machines without a shared disk. What one of them finds on its own disk is agreed on by
all: either all go on, or each ends with one sentence.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.command import TrainingError, sentence
from training.rendezvous import meet

T = TypeVar("T")

# To connect, and between two steps, in which the main process validates and writes. A process that ends is noticed at
# once; this is for a machine without power or network.
TIMEOUT = timedelta(minutes=2)
WORK_TIMEOUT = timedelta(minutes=30)  # for the work of one process before and after training, such as a download


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from the one of this `rank`. Only the main one prints and writes."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among the processes of this machine
    objects: distributed.ProcessGroup | None = None  # connects them for Python objects, with WORK_TIMEOUT
    tensors: distributed.ProcessGroup | None = None  # connects them for tensors on the training device; None: over gloo

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def on(self, device: torch.device) -> "Processes":
        """The processes, connected for tensors on `device`, which is of the same type in all."""
        if self.count == 1 or device.type != "cuda":
            return self
        torch.cuda.set_device(self.local_rank)
        return replace(self, tensors=new_group("nccl", TIMEOUT))

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a batch of indices, int64 [N]. Each index is in the part of exactly one process."""
        return batch[self.rank :: self.count]

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """The network wrapped so that its gradients are averaged over all processes."""
        return DistributedDataParallel(network, process_group=self.tensors) if self.count > 1 else network

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value, group=self.tensors)
        return value.item() / self.count

    def merge(self, before: Tensor, values: Tensor) -> None:
        """Combines, in place, the changes to `values` since `before`; each process has changed other elements."""
        if self.count > 1:
            changes = values - before
            distributed.all_reduce(changes, group=self.tensors)
            values.copy_(before + changes)

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self.objects)
        return values

    def broadcast(self, value: T, source: int = 0) -> T:
        """The value of the process of rank `source`, in all processes."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, source, group=self.objects)
        return values[0]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Runs the block in all processes. If it fails in one, it raises in all: TrainingError in those that succeed.

        These blocks are not nested.
        """
        try:
            yield
        except BaseException as error:
            if self.count > 1 and not is_connection_lost(error):
                with suppress(RuntimeError):  # of a connection that is lost: the first error counts
                    self.gather(f"on {socket.gethostname()} failed: {sentence(error) or type(error).__name__}")
            raise
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raises TrainingError if the block of `all_or_none` has failed in another process."""
        for rank, failure in enumerate(self.gather("")):
            if failure:
                raise TrainingError(f"process {rank} {failure}")

    @contextmanager
    def one_per_machine_first(self) -> Iterator[None]:
        """`all_or_none`, in one process of each machine before its others, for example to download the data once."""
        if self.local_rank:
            self.raise_failure()
        with self.all_or_none():
            yield
        if not self.local_rank:
            self.raise_failure()

    def check_same(self, values: dict[str, Any]) -> None:
        """Raises TrainingError, in all processes, unless all have the same `values`."""
        main, *others = self.gather((socket.gethostname(), values))
        for rank, (host, found) in enumerate(others, start=1):
            for name, value in main[1].items():
                if found[name] != value:
                    raise TrainingError(
                        f"process {rank} on {host} has {name} {found[name]}, and process 0 on {main[0]} has {value}; "
                        "start all with the same arguments, files and versions."
                    )


SINGLE_PROCESS = Processes()


@contextmanager
def connected_processes() -> Iterator[Processes]:
    """Connects the processes that torchrun started, as its environment variables say; without torchrun, this one.

    Raises TrainingError if the connection cannot be made or is lost.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield SINGLE_PROCESS
        return
    try:
        store, rank, count = meet(TIMEOUT)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT)
        objects = new_group("gloo", WORK_TIMEOUT)
    except RuntimeError as error:
        if not is_connection_lost(error):
            raise
        raise TrainingError(
            f"process {os.environ['RANK']} on {socket.gethostname()} cannot reach the other processes."
        ) from error
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the main process saves the result after Ctrl-C
    try:
        yield Processes(rank, count, int(os.environ["LOCAL_RANK"]), objects)
    except RuntimeError as error:
        if not is_connection_lost(error):
            raise
        raise TrainingError(
            f"process {rank} on {socket.gethostname()} has lost another one, which has ended or cannot be reached; "
            "start all again with --resume."
        ) from error
    finally:
        distributed.destroy_process_group()


def new_group(backend: str, timeout: timedelta) -> distributed.ProcessGroup:
    """One more connection of all processes."""
    group = distributed.new_group(backend=backend, timeout=timeout)
    assert isinstance(group, distributed.ProcessGroup)
    return group


def is_connection_lost(error: BaseException) -> bool:
    """Whether a process does not answer, or has ended. Gloo raises RuntimeError with the name of its source file."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))
