"""Rendezvous of the processes of a run in a store that holds what earlier processes have written."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import DistStoreError, HashStore  # type: ignore[attr-defined]

from training.rendezvous import agree_on_token

MINUTE = timedelta(minutes=1)


def test_processes_agree_in_the_store_of_earlier_ones() -> None:
    store = HashStore()
    tokens = set()
    with ThreadPoolExecutor() as threads:
        for _ in range(3):
            others = [threads.submit(agree_on_token, store, rank, 3, MINUTE) for rank in (1, 2)]
            main = threads.submit(agree_on_token, store, 0, 3, MINUTE)
            [token] = {future.result() for future in (main, *others)}
            tokens.add(token)
    assert len(tokens) == 3


def test_a_main_process_that_has_ended_is_not_taken_for_one_that_lives() -> None:
    store = HashStore()
    store.set("main", "old")
    store.set("old/answer/1", "a token of an earlier process")
    with pytest.raises(DistStoreError):
        agree_on_token(store, 1, 2, timedelta(seconds=0.2))
