"""Ablation of recipe `fast`: `python -m benchmarks.bench_ablation [--seeds N] [--epochs N]`.

Each variant is `fast` with one thing changed, and with what has to change with it. All variants are trained with the
same seeds on the same images, one after the other and seed by seed. Accuracy is that on 10,000 validation images; the
test set is not used. Prints a table after each seed and ends with one line of JSON. With the default of 3 seeds it
takes over an hour on two cores with bfloat16.
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

from benchmarks.bench_train import machine, spread
from classifier.classifier import find_device
from classifier.networks import ConvNet
from training import data
from training.loop import Run, RunState, train, validate
from training.recipes import FAST, make_network

VALIDATION_IMAGES = 10_000


@dataclass(frozen=True)
class Variant:
    """A change to `fast`."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    learned_filters: bool = False  # the whitening filters are trained
    random_filters: bool = False  # the whitening filters keep their random weights


VARIANTS = (
    Variant("fast"),
    Variant("first layer learned, too", learned_filters=True),
    Variant("first layer fixed, but random", random_filters=True),
    Variant("SGD instead of Muon", {"optimizer": "sgd", "learning_rate": 0.05, "warmup_fraction": 0.2}),
    Variant("no data pruning, about as many images: 8 epochs", {"prune_ratio": 0.0, "epochs": 8}),
    Variant("warm-up over a fifth of the steps", {"warmup_fraction": 0.2}),
    Variant("two views: the image and its mirror image", {"arguments": FAST.arguments | {"tta_views": 2}}),
    Variant("one view: the image alone", {"arguments": FAST.arguments | {"tta_views": 1}}),
    Variant("no mirror images in training", {"flip": False}),
    Variant("no shift", {"shift_pixels": 0}),
    Variant("random erasing of a quarter of the images", {"erase_probability": 0.25}),
    Variant("label smoothing of 0.1", {"label_smoothing": 0.1}),
    Variant("wider, about as long: 64 and 128 channels, 10 epochs", {
        "arguments": FAST.arguments | {"widths": (64, 128)}, "epochs": 10,
    }),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One training of a variant."""

    variant: str
    seed: int
    accuracy: float  # fraction of the validation images
    loss: float  # cross-entropy on them, nats
    seconds: float  # of training and validation
    images: float  # trained on


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_ablation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant (default: 3)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of every variant (default: the variant's)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the four Fashion-MNIST files")
    options = parser.parse_args()
    device = find_device()
    images, _ = data.load(options.data_dir)
    results = []
    for seed in range(options.seeds):
        for variant in VARIANTS:
            result = measure(variant, seed, images.to(device), options.epochs)
            print(f"{variant.name}, seed {seed}: {result.accuracy:.2%} after {result.seconds:.1f} s", flush=True)
            results.append(result)
        print_table(results)
        print(f"\n{VALIDATION_IMAGES:,} validation images; {machine(device)}\n", flush=True)
    runs = [asdict(result) for result in results]
    print(json.dumps({"machine": machine(device), "torch": torch.__version__, "runs": runs}))
    return 0


def print_table(results: Sequence[Result]) -> None:
    print("\n| | validation accuracy | cross-entropy | seconds | images |\n|---|---:|---:|---:|---:|")
    for variant in VARIANTS:
        own = [result for result in results if result.variant == variant.name]
        accuracy, loss = spread([100 * result.accuracy for result in own]), mean(result.loss for result in own)
        seconds, images = mean(result.seconds for result in own), mean(result.images for result in own)
        print(f"| {variant.name} | {accuracy} % | {loss:.4f} | {seconds:.0f} | {images:,.0f} |")


def measure(variant: Variant, seed: int, images: data.Images, epochs: int | None) -> Result:
    """Trains a variant, for `epochs` instead of its own number if given."""
    recipe = replace(FAST, **variant.changes | ({"epochs": epochs} if epochs else {}))
    training, validation = data.split(images, VALIDATION_IMAGES, seed)
    torch.manual_seed(seed)
    network = make_network(recipe, training)
    assert isinstance(network, ConvNet)
    if variant.random_filters:
        network.filters.reset_parameters()
    network.filters.requires_grad_(variant.learned_filters)
    network.to(images.pixels.device)
    state = train_to_best(Run(recipe, network, training, validation, seed))
    loss, accuracy = validate(recipe, network, validation)
    return Result(variant.name, seed, accuracy, loss, state.seconds, sum(epoch["images"] for epoch in state.history))


def train_to_best(run: Run) -> RunState:
    """Trains `run.network` and loads its best weights into it. Raises KeyboardInterrupt: half a run is not measured."""
    state = train(run)
    if state.interrupted:
        raise KeyboardInterrupt
    assert state.best_weights
    run.network.load_state_dict(state.best_weights)
    return state


if __name__ == "__main__":
    sys.exit(main())
