"""What each part of recipe `fast` is worth: `python -m benchmarks.bench_ablation [--seeds N] [--epochs N]`.

Each variant is `fast` with one thing changed (and what has to change with it), trained with the same seeds on the same
images, one variant after the other and seed by seed. Accuracy is that on 10,000 held-out training images, on which the
epoch was chosen as well: the test set has no say in what stays. A table for people after each seed,
in the end one line of JSON. With the default of 3 seeds it takes an hour and three quarters on two cores.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from torch import nn

from benchmarks.bench_train import machine, spread
from classifier.classifier import find_device
from classifier.networks import ConvNet
from training import data
from training.loop import Progression, loop, validate
from training.recipes import FAST, Recipe
from training.start import make_network

HELD_OUT = 10_000  # images


@dataclass(frozen=True)
class Variant:
    """A change to `fast`."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    learned: bool = False  # the first layer, too
    random: bool = False  # the first layer is left as it was made


VARIANTS = (
    Variant("fast"),
    Variant("first layer learned, too", learned=True),
    Variant("first layer fixed, but random", random=True),
    Variant("SGD instead of Muon", {"optimizer": "sgd", "learning_rate": 0.05, "warm_up": 0.2}),
    Variant("no image spared, a seventh fewer shown: 9 epochs", {"spared": 0.0, "epochs": 9}),
    Variant("the rate rises for a fifth of the steps", {"warm_up": 0.2}),
    Variant("answers to the image and its mirror image alone", {"arguments": FAST.arguments | {"tta_views": 2}}),
    Variant("answers to the image alone", {"arguments": FAST.arguments | {"tta_views": 1}}),
    Variant("no image mirrored in training", {"flip": False}),
    Variant("no image moved", {"shift": 0}),
    Variant("a rectangle of a quarter of the images filled with noise", {"erase": 0.25}),
    Variant("labels smoothed by 0.1", {"label_smoothing": 0.1}),
    Variant("wider, about as long: 64 and 128 channels, 12 epochs", {
        "arguments": FAST.arguments | {"widths": (64, 128)}, "epochs": 12,
    }),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training of a variant."""

    variant: str
    seed: int
    accuracy: float  # share of the held-out images
    loss: float  # cross-entropy on them
    seconds: float  # of training and validation
    images: float  # trained on


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_ablation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant")
    parser.add_argument("--epochs", type=int, metavar="N", help="of every variant, instead of its own")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    options = parser.parse_args()
    device = find_device()
    images, _ = data.load(options.data_dir)
    runs = []
    for seed in range(options.seeds):
        for variant in VARIANTS:
            runs.append(run(variant, seed, images.to(device), options.epochs))
            print(f"{variant.name}, seed {seed}: {runs[-1].accuracy:.2%} after {runs[-1].seconds:.1f} s", flush=True)
        tell(runs)
        print(f"\n{HELD_OUT:,} images held out; {machine(device)}\n", flush=True)
    print(json.dumps({"machine": machine(device), "torch": torch.__version__, "runs": [asdict(run) for run in runs]}))
    return 0


def tell(runs: Sequence[Run]) -> None:
    """A table for people."""
    print("\n| | accuracy, held-out | cross-entropy | seconds | images |\n|---|---:|---:|---:|---:|")
    for variant in VARIANTS:
        mine = [run for run in runs if run.variant == variant.name]
        accuracy, loss = (spread([100 * run.accuracy for run in mine]), f"{mean(run.loss for run in mine):.4f}")
        seconds, shown = (mean(run.seconds for run in mine), mean(run.images for run in mine))
        print(f"| {variant.name} | {accuracy} % | {loss} | {seconds:.0f} | {shown:,.0f} |")


def run(variant: Variant, seed: int, images: data.Images, epochs: int | None) -> Run:
    recipe = replace(FAST, **{"held_out": HELD_OUT} | variant.changes | ({"epochs": epochs} if epochs else {}))
    training, held_out = data.split(images, HELD_OUT, seed)
    torch.manual_seed(seed)
    network = make_network(recipe, training)
    assert isinstance(network, ConvNet)
    if variant.random:
        network.filters.reset_parameters()
    network.filters.requires_grad_(variant.learned)
    network.to(images.pixels.device)
    progression = train(Console(quiet=True), recipe, network, training, held_out, seed)
    loss, accuracy = validate(recipe, network, held_out)
    shown = sum(epoch["images"] for epoch in progression.history)
    return Run(variant.name, seed, accuracy, loss, progression.seconds, shown)


def train(
    console: Console, recipe: Recipe, network: nn.Module, training: data.Images, held_out: data.Images, seed: int
) -> Progression:
    """Leaves the best weights of a run in `network`. Raises KeyboardInterrupt, for half a run is none."""
    progression = loop(console, recipe, network, training, held_out, seed)
    if progression.interrupted:
        raise KeyboardInterrupt
    assert progression.best_weights
    network.load_state_dict(progression.best_weights)
    return progression


if __name__ == "__main__":
    sys.exit(main())
