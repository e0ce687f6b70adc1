"""Provenance of a checkpoint: recipe, seed, data digests, versions, git commit, and the time of its training."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from training.data import SHA256, Images
from training.loop import Run, RunState
from training.photos import Photos


def provenance(run: Run, state: RunState) -> dict[str, Any]:
    """Where a checkpoint comes from: all that is needed to train it again, and what the run took."""
    device = run.validation.pixels.device
    return {
        "recipe": run.recipe.name,
        "settings": {name: value for name, value in vars(run.recipe).items() if name != "name"},
        "seed": run.seed,
        "epochs": len(state.history),
        "seconds": state.seconds,
        "history": state.history,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or device.type,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "data": SHA256,
        **photos(run.training),
        "commit": commit(),
    }


def photos(training: Images) -> dict[str, Any]:
    """What identifies the photos that a photo network was trained on."""
    return {"photos": training.digest} if isinstance(training, Photos) else {}


def commit() -> str:
    """The git commit of this project's checkout, or "unknown" outside of one."""
    if not shutil.which("git"):
        return "unknown"
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
