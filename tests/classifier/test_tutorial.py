"""The state dict of the tutorial's Net, in the ways in which people save it."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from classifier.checkpoint import Checkpoint, CheckpointError, build, load, save
from classifier.networks import Net
from classifier.tutorial import ASSUMPTION

torch.manual_seed(0)
WEIGHTS = dict(Net().state_dict())
PIXELS = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
OPTIMIZER = torch.optim.SGD(Net().parameters(), momentum=0.9).state_dict()


def prefixed(*prefixes: str) -> dict[str, torch.Tensor]:
    return {"".join(prefixes) + name: each for name, each in WEIGHTS.items()}


@pytest.mark.parametrize(
    "found",
    [
        WEIGHTS,
        *[prefixed(prefix) for prefix in ("module.", "_orig_mod.", "model.", "net.")],
        prefixed("_orig_mod.", "module."),
        prefixed("model.", "_orig_mod."),
        nn.DataParallel(Net()).state_dict() | prefixed("module."),
        *[{"epoch": 3, key: WEIGHTS, "optimizer": OPTIMIZER} for key in ("model_state_dict", "state_dict", "model")],
        {"epoch": 3, "state_dict": prefixed("model."), "optimizer_states": [OPTIMIZER], "hyper_parameters": {"lr": 1}},
        {"checkpoint": {"model": prefixed("module."), "epoch": 1}},
        {name: nn.Parameter(each) for name, each in WEIGHTS.items()},
    ],
    ids=range(14),
)  # fmt: skip
def test_wrappers_and_prefixes_are_taken_off(found: dict[str, Any], tmp_path: Path) -> None:
    torch.save(found, tmp_path / "model.pt")
    loaded = load(tmp_path / "model.pt")
    assert (loaded.architecture, loaded.arguments, loaded.recipe) == ("Net", {"sigmoid": True}, "tutorial")
    assert loaded.assumption == f"model.pt {ASSUMPTION}"
    network = Net().eval()
    network.load_state_dict(WEIGHTS)
    assert torch.equal(build(loaded)(PIXELS), network(PIXELS))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({name.replace("ff", "fc"): each for name, each in WEIGHTS.items()}, "no 'ff1.weight' and has 'fc1.weight'"),
        ({name: each for name, each in WEIGHTS.items() if name != "ff2.bias"}, "has no 'ff2.bias'."),
        (WEIGHTS | {"extra.weight": torch.ones(1)}, "has 'extra.weight', which that network does not have"),
        (nn.Sequential(nn.Linear(2, 2)).state_dict(), "no 'conv1.weight' and has '0.weight'"),
        ({"model": {"a": torch.ones(1)}, "epoch": 1}, "no 'conv1.weight' and has 'a'"),
        ({"model": WEIGHTS, "ema": WEIGHTS}, "has 2 state dicts, under 'model' and 'ema': save one of them alone"),
        (OPTIMIZER, "has no dict of tensors in it"),
        ({}, "has no dict of tensors in it"),
        ({"k" * 100_000: torch.ones(1)}, "has 'kkk"),
        ({"model": WEIGHTS, "loss": np.float64(1)}, "numpy._core.multiarray.scalar"),
        ({"model": WEIGHTS, "args": argparse.Namespace(lr=1)}, "'argparse.Namespace'"),
        ({name: each.numpy() for name, each in WEIGHTS.items()}, "'numpy._core.multiarray._reconstruct'"),
        (Net(), "'classifier.networks.Net'"),
    ],
    ids=range(13),
)
def test_another_state_dict_is_refused_with_what_differs(found: Any, words: str, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "model.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "model.pt")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "expected" in str(caught.value) or "docs/own-network.md" in str(caught.value) or "ave " in str(caught.value)


def test_a_network_that_differs_is_read_right_when_saved_as_the_documents_say(tmp_path: Path) -> None:
    """Trained with Normalize(0.5, 0.5) and ReLU behind the convolutions, without a sigmoid."""

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(sigmoid=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            net = self.net
            x = net.pool(torch.relu(net.conv1((x.float() / 255 - 0.5) / 0.5)))
            x = net.pool(torch.relu(net.conv2(x)))
            logits: torch.Tensor = net.ff2(torch.relu(net.ff1(x.flatten(1))))
            return logits

    mine = Mine()
    document = (Path(__file__).parents[2] / "docs/own-network.md").read_text()
    [block] = [each.partition("```")[0] for each in document.split("```python\n")[1:] if "Checkpoint(" in each]
    torch.save(mine.net.state_dict(), tmp_path / "mine.pth")
    code = block.replace('"mine.pth"', repr(str(tmp_path / "mine.pth"))).replace(
        '"models/mine.pt"', repr(str(tmp_path / "mine.pt"))
    )
    exec(code, {})
    loaded = load(tmp_path / "mine.pt")
    assert loaded.assumption == ""
    assert torch.allclose(build(loaded)(PIXELS), mine(PIXELS), atol=1e-5)


def test_a_checkpoint_of_ours_assumes_nothing(tmp_path: Path) -> None:
    save(Checkpoint("Net", {"sigmoid": False}, Net().state_dict(), training={"recipe": "x"}), tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").assumption == ""
