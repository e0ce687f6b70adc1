"""Data-parallel training by several processes: `torchrun --nproc-per-node N -m training.run …`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from the one of this `rank`. Only the main one prints and writes."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a batch of indices, int64 [N]. Each index is in the part of exactly one process."""
        return batch[self.rank :: self.count]

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """The network wrapped so that its gradients are averaged over all processes."""
        return DistributedDataParallel(network) if self.count > 1 else network

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value.item() / self.count

    def merge(self, before: Tensor, values: Tensor) -> None:
        """Combines, in place, the changes to `values` since `before`; each process has changed other elements."""
        if self.count > 1:
            changes = values - before
            distributed.all_reduce(changes)
            values.copy_(before + changes)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Runs the block in the main process before all others, for example to download the data set once."""
        if self.count > 1 and not self.is_main:
            distributed.barrier()
        try:
            yield
        finally:
            if self.count > 1 and self.is_main:
                distributed.barrier()


SINGLE_PROCESS = Processes()


@contextmanager
def connected_processes(device: torch.device) -> Iterator[Processes]:
    """Connects the processes that torchrun started, as its environment variables say; without torchrun, this one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if distributed.get_rank():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # only the main process saves the result after Ctrl-C
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
