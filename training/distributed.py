"""Several processes that train one network: `torchrun --nproc-per-node N -m training.run …`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by itself it is rank 0 of 1. Rank 0 alone prints and writes."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch of indices, int64 [N]: each is some process's, and none is two's."""
        return batch[self.rank :: self.count]

    def parallel(self, network: nn.Module) -> nn.Module:
        """`network`, whose gradients from now on are the mean over all processes."""
        return DistributedDataParallel(network) if self.count > 1 else network

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value.item() / self.count

    def merge(self, before: Tensor, values: Tensor) -> None:
        """Gives `values`, of which each process has changed others since they were `before`, all the changes."""
        if self.count > 1:
            changes = values - before
            distributed.all_reduce(changes)
            values.copy_(before + changes)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """What is within, rank 0 does before all others: it may download what they then find."""
        if self.count > 1 and not self.leads:
            distributed.barrier()
        try:
            yield
        finally:
            if self.count > 1 and self.leads:
                distributed.barrier()


ALONE = Ranks()


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started, as its environment says, or this one alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if distributed.get_rank():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: what the run has reached is rank 0's to keep
    try:
        yield Ranks(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
