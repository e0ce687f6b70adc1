"""ImageNet weights against random ones: `python -m benchmarks.bench_pretrained --weights FILE [--seeds N]`.

Trains recipe `pretrained`, the same network from random weights, and recipe `fast`, one after the other and seed by
seed. `--best FILE`, a checkpoint of recipe `best`, adds the results of its own training. Accuracy over time is that on
validation images; the test set is read once a run, at its end. Prints tables and ends with one line of JSON. It takes
half an hour a seed on two cores with bfloat16.
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

from benchmarks.bench_ablation import train_to_best
from benchmarks.bench_train import machine, spread
from classifier.checkpoint import load
from classifier.classifier import find_device
from classifier.networks import ARCHITECTURES
from training import data
from training.loop import Run, validate
from training.recipes import find_recipe, make_network

IMAGENET, RANDOM, FAST, BEST = "pretrained", "the same from random weights", "fast", "best"
SECONDS = (15, 50, 100, 200, 400, 800, 1_600, 3_200)  # after which the accuracy is listed


@dataclass(frozen=True)
class Result:
    """One training. Accuracies are fractions, times seconds of training and validation."""

    contender: str
    seed: int
    seconds: float
    parameters: int
    test_accuracy: float
    history: list[dict[str, float]]  # with `seconds` and `validation_accuracy`, one entry per epoch

    def accuracy_after(self, seconds: float) -> float | None:
        """The validation accuracy of the last epoch that ended by then; None before the first."""
        accuracies = [epoch["validation_accuracy"] for epoch in self.history if epoch["seconds"] <= seconds]
        return accuracies[-1] if accuracies else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_pretrained", description=__doc__)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="ImageNet weights (default: timm downloads them)")
    parser.add_argument("--best", type=Path, metavar="FILE", help="a checkpoint of recipe best to list as well")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each contender (default: 1)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the four Fashion-MNIST files")
    options = parser.parse_args()
    device = find_device()
    results = []
    for result in measure_all(options, device):
        print(
            f"{result.contender}, seed {result.seed}: {result.test_accuracy:.2%} after {result.seconds:.0f} s",
            flush=True,
        )
        results.append(result)
    print_tables(results)
    print(f"\n{machine(device)}\n")
    runs = [asdict(result) for result in results]
    print(json.dumps({"machine": machine(device), "torch": torch.__version__, "runs": runs}))
    return 0


def measure_all(options: argparse.Namespace, device: torch.device) -> Iterator[Result]:
    images, test_images = (part.to(device) for part in data.load(options.data_dir))
    for seed in range(options.seeds):
        for contender in (FAST, IMAGENET, RANDOM):
            yield measure(contender, seed, images, test_images, options.weights)
    if options.best:
        checkpoint = load(options.best)
        facts = checkpoint.training
        accuracy = checkpoint.metrics["test_accuracy"]
        yield Result(BEST, facts["seed"], facts["seconds"], checkpoint.parameters, accuracy, facts["history"])


def measure(contender: str, seed: int, images: data.Images, test_images: data.Images, weights: Path | None) -> Result:
    recipe = find_recipe("fast" if contender == FAST else "pretrained", images.pixels.device.type)
    training, validation = data.split(images, recipe.validation_images, seed)
    torch.manual_seed(seed)
    if contender == RANDOM:
        network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    else:
        network = make_network(recipe, training, weights)
    network.to(images.pixels.device)
    state = train_to_best(Run(recipe, network, training, validation, seed, Console(stderr=True)))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _, accuracy = validate(recipe, network, test_images)
    return Result(contender, seed, state.seconds, parameters, accuracy, state.history)


def print_tables(results: Sequence[Result]) -> None:
    names = list(dict.fromkeys(result.contender for result in results))
    print("\n| | test accuracy | seconds | parameters |\n|---|---:|---:|---:|")
    for name in names:
        own = [result for result in results if result.contender == name]
        accuracy = spread([100 * result.test_accuracy for result in own])
        print(f"| {name} | {accuracy} % | {mean(result.seconds for result in own):,.0f} | {own[0].parameters:,} |")
    print("\n| validation accuracy after |", " | ".join(f"{seconds:,} s" for seconds in SECONDS), "|")
    print("|---|" + "---:|" * len(SECONDS))
    for name in names:
        cells = []
        for seconds in SECONDS:
            found = [result.accuracy_after(seconds) for result in results if result.contender == name]
            reached = [accuracy for accuracy in found if accuracy is not None]
            cells.append(f"{mean(reached):.1%}" if len(reached) == len(found) else "")
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    sys.exit(main())
