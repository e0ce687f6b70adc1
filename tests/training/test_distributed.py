"""Two processes over gloo, started by torchrun as a user would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import load
from tests.training.test_run import QUICK, ROOT, finished
from training.distributed import ALONE, Ranks

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [7, 20, 21])
def test_every_image_of_a_batch_is_one_processs(count: int, size: int) -> None:
    batch = torch.randperm(size)
    shares = [Ranks(rank, count).share(batch) for rank in range(count)]
    assert sorted(torch.cat(shares).tolist()) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_waited_for() -> None:
    assert ALONE.leads
    assert ALONE.mean(torch.tensor(2.5)) == 2.5
    network = torch.nn.Linear(1, 1)
    assert ALONE.parallel(network) is network
    values = torch.tensor([1.0, 2.0])
    ALONE.merge(torch.zeros(2), values)
    assert values.tolist() == [1.0, 2.0]
    with ALONE.leader_first():
        pass


@pytest.mark.data
@pytest.mark.timeout(300)
def test_two_processes_end_with_the_network_that_one_ends_with(tmp_path: Path) -> None:
    arguments = (*QUICK, "--epochs", "2", "--seed", "7", "--output")
    code, alone, _ = finished(*arguments, tmp_path / "alone.pt")
    assert code == 0
    both = subprocess.run(
        [*TORCHRUN, "2", "-m", "training.run", *arguments, str(tmp_path / "both.pt")],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert both.stdout.count("epoch  1/2") == 1  # one prints
    results = [json.loads(text.splitlines()[-1]) for text in (alone, both.stdout)]
    assert results[0]["validation_loss"] == pytest.approx(results[1]["validation_loss"], rel=1e-3)
    first, second = (load(tmp_path / name).state_dict for name in ("alone.pt", "both.pt"))
    assert all(torch.allclose(tensor, second[name], rtol=1e-2, atol=1e-3) for name, tensor in first.items())
    assert {path.name for path in tmp_path.iterdir()} == {"alone.pt", "both.pt"}


@pytest.mark.data
@pytest.mark.timeout(300)
def test_more_processes_than_a_batch_can_feed_are_one_sentence(tmp_path: Path) -> None:
    refused = subprocess.run(
        [*TORCHRUN, "2", "-m", "training.run", "--batch-size", "3", "--output", str(tmp_path / "model.pt")],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert refused.stderr.count("error: a batch of 3 images is too small for 2 processes.") >= 1
