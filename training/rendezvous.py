"""Rendezvous of the processes of a run: a store in which they exchange addresses, without those of earlier processes.

torchrun keeps one store over all its restarts, so a process can find the address of one that was killed
(https://github.com/pytorch/pytorch/issues/167288), and `TORCHELASTIC_RESTART_COUNT` can differ between machines.
"""

import secrets
import time
from datetime import timedelta

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

POLL_SECONDS = 0.05


def meet(timeout: timedelta) -> tuple[Store, int, int]:
    """A store of these processes alone, the rank of this one, and their number. Raises RuntimeError after `timeout`."""
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(agree_on_token(store, rank, count, timeout), store), rank, count


def agree_on_token(store: Store, rank: int, count: int, timeout: timedelta) -> str:
    """A random text that the main process has drawn, the same in all processes. Raises RuntimeError after `timeout`.

    A process may read the token of an earlier main process, which was killed. So it uses a token only after a main
    process that runs has sent the process's own token back.
    """
    token = secrets.token_hex(8)
    if rank == 0:
        store.set("main", token)
        for other in range(1, count):
            store.set(f"{token}/answer/{other}", store.get(f"{token}/question/{other}").decode())
        return token
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        main = store.get("main").decode()
        store.set(f"{main}/question/{rank}", token)
        answer = f"{main}/answer/{rank}"
        if store.check([answer]) and store.get(answer).decode() == token:
            return main
        time.sleep(POLL_SECONDS)
    raise DistStoreError("the main process did not answer")
