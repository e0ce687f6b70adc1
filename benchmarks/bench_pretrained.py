"""What ImageNet's weights are worth: `python -m benchmarks.bench_pretrained --weights FILE [--seeds N]`.

Recipe `pretrained`, the same network from random weights, and recipe `fast`, one after the other and seed by seed.
`--best FILE`, a checkpoint of recipe `best`, adds what its own training has reached and when. Accuracy over time is
that on held-out training images; the test set is read once a run, at its end. Tables for people, then one line of JSON.
It takes half an hour a seed on two cores.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console

from benchmarks.bench_ablation import train
from benchmarks.bench_train import machine, spread
from classifier.checkpoint import load
from classifier.classifier import find_device
from classifier.networks import ARCHITECTURES
from training import data
from training.loop import validate
from training.recipes import find_recipe
from training.start import make_network

IMAGENET, RANDOM, OURS, LARGER = "pretrained", "the same from random weights", "fast", "best"
SECONDS = (15, 50, 100, 200, 400, 800, 1_600, 3_200)  # the moments that are looked at


@dataclass(frozen=True)
class Run:
    """One training. Accuracies are shares, times seconds of training and validation."""

    contender: str
    seed: int
    seconds: float
    parameters: int
    test_accuracy: float
    history: list[dict[str, float]]  # with `seconds` and `validation_accuracy`, one entry an epoch

    def after(self, seconds: float) -> float | None:
        """The accuracy of the last epoch that ended by then, on held-out images."""
        accuracies = [epoch["validation_accuracy"] for epoch in self.history if epoch["seconds"] <= seconds]
        return accuracies[-1] if accuracies else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_pretrained", description=__doc__)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="ImageNet's, else timm downloads them")
    parser.add_argument("--best", type=Path, metavar="FILE", help="a checkpoint of recipe best")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each contender")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    options = parser.parse_args()
    device = find_device()
    runs = []
    for each in all_runs(options, device):
        print(f"{each.contender}, seed {each.seed}: {each.test_accuracy:.2%} after {each.seconds:.0f} s", flush=True)
        runs.append(each)
    tell(runs)
    print(f"\n{machine(device)}\n")
    print(json.dumps({"machine": machine(device), "torch": torch.__version__, "runs": [asdict(run) for run in runs]}))
    return 0


def all_runs(options: argparse.Namespace, device: torch.device) -> Iterator[Run]:
    training, test = (images.to(device) for images in data.load(options.data_dir))
    for seed in range(options.seeds):
        for contender in (OURS, IMAGENET, RANDOM):
            yield run(contender, seed, training, test, options.weights)
    if options.best:
        checkpoint = load(options.best)
        facts = checkpoint.training
        yield Run(
            LARGER,
            facts["seed"],
            facts["seconds"],
            checkpoint.parameters,
            checkpoint.metrics["test_accuracy"],
            facts["history"],
        )


def run(contender: str, seed: int, images: data.Images, test: data.Images, weights: Path | None) -> Run:
    recipe = find_recipe("fast" if contender == OURS else "pretrained", images.pixels.device.type)
    training, held_out = data.split(images, recipe.held_out, seed)
    torch.manual_seed(seed)
    if contender == RANDOM:
        network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    else:
        network = make_network(recipe, training, weights)
    network.to(images.pixels.device)
    progression = train(Console(stderr=True), recipe, network, training, held_out, seed)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _, accuracy = validate(recipe, network, test)
    return Run(contender, seed, progression.seconds, parameters, accuracy, progression.history)


def tell(runs: Sequence[Run]) -> None:
    """Two tables for people."""
    names = list(dict.fromkeys(run.contender for run in runs))
    print("\n| | test accuracy | seconds | parameters |\n|---|---:|---:|---:|")
    for name in names:
        mine = [run for run in runs if run.contender == name]
        accuracy = spread([100 * run.test_accuracy for run in mine])
        print(f"| {name} | {accuracy} % | {mean(run.seconds for run in mine):,.0f} | {mine[0].parameters:,} |")
    print("\n| accuracy on held-out images after |", " | ".join(f"{seconds:,} s" for seconds in SECONDS), "|")
    print("|---|" + "---:|" * len(SECONDS))
    for name in names:
        cells = []
        for seconds in SECONDS:
            found = [run.after(seconds) for run in runs if run.contender == name]
            reached = [accuracy for accuracy in found if accuracy is not None]
            cells.append(f"{mean(reached):.1%}" if len(reached) == len(found) else "")
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    sys.exit(main())
