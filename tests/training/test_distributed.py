"""Data-parallel training: two processes over gloo, started by torchrun as a user would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import load
from tests.training.test_run import QUICK, ROOT, finished
from training.distributed import SINGLE_PROCESS, Processes

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [7, 20, 21])
def test_every_image_of_a_batch_belongs_to_one_process(count: int, size: int) -> None:
    batch = torch.randperm(size)
    shards = [Processes(rank, count).shard(batch) for rank in range(count)]
    assert sorted(torch.cat(shards).tolist()) == list(range(size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_single_process_waits_for_no_other() -> None:
    assert SINGLE_PROCESS.is_main
    assert SINGLE_PROCESS.mean(torch.tensor(2.5)) == 2.5
    network = torch.nn.Linear(1, 1)
    assert SINGLE_PROCESS.data_parallel(network) is network
    values = torch.tensor([1.0, 2.0])
    SINGLE_PROCESS.merge(torch.zeros(2), values)
    assert values.tolist() == [1.0, 2.0]
    with SINGLE_PROCESS.one_per_machine_first():
        pass


@pytest.mark.data
@pytest.mark.timeout(600)
def test_two_processes_train_the_same_network_as_one(tmp_path: Path) -> None:
    arguments = (*QUICK, "--epochs", "2", "--seed", "7", "--output")
    code, alone, _ = finished(*arguments, tmp_path / "alone.pt")
    assert code == 0
    both = subprocess.run(
        [*TORCHRUN, "2", "-m", "training.run", *arguments, str(tmp_path / "both.pt")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert both.stdout.count("epoch  1/2") == 1  # only the main process prints
    results = [json.loads(text.splitlines()[-1]) for text in (alone, both.stdout)]
    assert results[0]["validation_loss"] == pytest.approx(results[1]["validation_loss"], rel=1e-3)
    first, second = (load(tmp_path / name).state_dict for name in ("alone.pt", "both.pt"))
    assert all(torch.allclose(tensor, second[name], rtol=1e-2, atol=1e-3) for name, tensor in first.items())
    assert {path.name for path in tmp_path.iterdir()} == {"alone.pt", "both.pt"}


@pytest.mark.data
@pytest.mark.timeout(600)
def test_too_many_processes_for_a_batch_are_one_sentence(tmp_path: Path) -> None:
    refused = subprocess.run(
        [*TORCHRUN, "2", "-m", "training.run", "--batch-size", "3", "--output", str(tmp_path / "model.pt")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "error: --batch-size 3 is too small for 2 processes" in refused.stderr
