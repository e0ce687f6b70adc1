"""How fast training gets how good: `python -m benchmarks.bench_train [--seeds N]`.

The yardstick (tutorial_baseline.py) and the recipes `tutorial`, `tutorial-logits` and `fast`, each as the command that
a user runs, one after the other and seed by seed, so that drift of the machine hits all alike. Accuracy over time is
that on held-out training images; the test set is read once a run, at its end. Tables for people, then one line of JSON.
Exit code 1 if a "must" does not hold.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from torch.nn import functional
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import HEAD, Row
from classifier.checkpoint import load
from classifier.classifier import find_device
from classifier.networks import ARCHITECTURES
from training import data
from training.loop import plan, train_epoch, validate
from training.optimizer import make_optimizer
from training.pruning import Pruning
from training.recipes import Recipe, find_recipe
from training.start import make_network
from training.step import Step, precision

LEVELS = (0.783, 0.88, 0.92, 0.94)  # accuracies; the first is what the tutorial's code reaches
YARDSTICK = "yardstick"
PEAK_SIDE = 2048  # of the square matrices whose product shows what the machine can


@dataclass(frozen=True)
class Run:
    """One training. Accuracies are shares, times seconds of training and validation."""

    contender: str
    seed: int
    seconds: float
    test_accuracy: float
    ece: float | None  # calibration error; the tutorial's own code has none
    history: list[dict[str, float]]  # with `seconds` and `validation_accuracy`, one entry an epoch
    images: float  # trained on, in all epochs together
    peak_mib: float  # resident memory

    def reaches(self, accuracy: float) -> float | None:
        """The time at the end of the first epoch that is so good on held-out images."""
        return next((epoch["seconds"] for epoch in self.history if epoch["validation_accuracy"] >= accuracy), None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_train", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each contender")
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    options = parser.parse_args()
    device = find_device()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for contender in (YARDSTICK, "tutorial", "tutorial-logits", "fast"):
                runs.append(run(contender, seed, Path(folder), options.data_dir))
                print(
                    f"{contender}, seed {seed}: {runs[-1].test_accuracy:.2%} after {runs[-1].seconds:.1f} s", flush=True
                )
    fast = find_recipe("fast", device.type)
    level = mean(run.test_accuracy for run in runs if run.contender == YARDSTICK)
    first = [seconds_to(level, fast, seed, device, options.data_dir) for seed in range(options.seeds)]
    tell(runs, first, level, device)
    rows = table(runs, first, device)
    print(*("", HEAD, *(row.line() for row in rows), ""), sep="\n")
    print(
        json.dumps(
            {
                "machine": machine(device),
                "torch": torch.__version__,
                "runs": [asdict(run) for run in runs],
                "seconds_to_the_yardsticks_accuracy": first,
                "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
            }
        )
    )
    return int(any(row.verdict == "FAIL" for row in rows))


def run(contender: str, seed: int, folder: Path, data_dir: Path | None) -> Run:
    """The contender's own command, in a process of its own."""
    output = folder / "model.pt"
    if contender == YARDSTICK:
        command = ["benchmarks.tutorial_baseline"]
    else:
        command = ["training.run", "--recipe", contender, "--output", str(output)]
    command += ["--seed", str(seed), *(["--data-dir", str(data_dir)] if data_dir else [])]
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=sys.stderr) as process:
        assert process.stdout
        printed = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{contender} failed with exit code {process.returncode}")
    found = json.loads(printed.splitlines()[-1])
    history = found["history"] if contender == YARDSTICK else load(output).training["history"]
    return Run(
        contender,
        seed,
        found["seconds"],
        found["test_accuracy"],
        found.get("ece"),
        history,
        images=sum(epoch["images"] for epoch in history),
        peak_mib=usage.ru_maxrss / 2**10,
    )


class Reached(Exception):
    """Training may end: it is good enough."""


def seconds_to(level: float, recipe: Recipe, seed: int, device: torch.device, data_dir: Path | None) -> float:
    """How long a run of the recipe takes until it is so good on held-out images, looked at every few steps.

    The looks are off the clock, and so is a GPU's warm-up.
    """
    training, _ = data.load(data_dir)
    training, held_out = data.split(training.to(device), recipe.held_out, seed)
    start = time.perf_counter()
    torch.manual_seed(seed)
    network = make_network(recipe, training).to(device)
    optimizer = make_optimizer(recipe, network)
    pruning = Pruning(recipe, len(training), device)
    step = Step(recipe, network, training, optimizer, pruning.losses)
    warm_up = time.perf_counter()
    step.record()
    looking = time.perf_counter() - warm_up

    def look(images: int, loss: float) -> None:
        nonlocal looking
        pause = time.perf_counter()
        if validate(recipe, network, held_out)[1] >= level:
            raise Reached(pause - start - looking)
        network.train()
        looking += time.perf_counter() - pause

    try:
        for number in range(1, recipe.epochs + 1):
            train_epoch(recipe, plan(pruning, seed, number), step, pruning, look)
    except Reached as reached:
        seconds: float = reached.args[0]
        return seconds
    return float("inf")


def tell(runs: Sequence[Run], first: Sequence[float], level: float, device: torch.device) -> None:
    """Two tables for people."""
    names = list(dict.fromkeys(run.contender for run in runs))
    print("\n| | test accuracy | calibration error | seconds | images/s | share of peak FLOP/s | peak memory MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        mine = [run for run in runs if run.contender == name]
        seconds, rate = mean(run.seconds for run in mine), mean(run.images / run.seconds for run in mine)
        share = share_of_peak(find_recipe("tutorial" if name == YARDSTICK else name, device.type), rate, device)
        errors = [100 * run.ece for run in mine if run.ece is not None]
        print(
            f"| {name} | {spread([100 * run.test_accuracy for run in mine])} % "
            f"| {f'{spread(errors)} %' if errors else ''} | {seconds:.0f} | {rate:,.0f} "
            f"| {share:.1%} | {max(run.peak_mib for run in mine):,.0f} |"
        )
    print("\n| seconds to, on held-out images |", " | ".join(f"{level:.1%}" for level in LEVELS), "|")
    print("|---|" + "---:|" * len(LEVELS))
    for name in names:
        cells = []
        for accuracy in LEVELS:
            times = [run.reaches(accuracy) for run in runs if run.contender == name]
            reached = [seconds for seconds in times if seconds is not None]
            cells.append(f"{mean(reached):.1f}" if len(reached) == len(times) else f"{len(reached)} of {len(times)} do")
        print(f"| {name} |", " | ".join(cells), "|")
    print(f"\nfast to the yardstick's own {level:.2%}, looked at every few steps: {spread(first)} s; {machine(device)}")


def table(runs: Sequence[Run], first: Sequence[float], device: torch.device) -> list[Row]:
    """The issue's rows."""
    yardstick = mean(run.seconds for run in runs if run.contender == YARDSTICK)
    fast = [run for run in runs if run.contender == "fast"]
    accuracy, seconds = mean(run.test_accuracy for run in fast), mean(run.seconds for run in fast)
    if device.type != "cpu":
        return [
            Row("fast: test accuracy, %", 100 * accuracy, 94.0),
            Row("fast: seconds", seconds, 5, 1.5, at_least=False),
        ]
    return [
        Row(
            "fast: test accuracy, %", 100 * accuracy, 93.5, 94.0, note=spread([100 * run.test_accuracy for run in fast])
        ),
        Row("fast: time over the yardstick's", seconds / yardstick, 1, 0.5, at_least=False),
        Row("the yardstick's time over fast's to its accuracy", yardstick / mean(first), 100, 200),
    ]


def share_of_peak(recipe: Recipe, images_per_second: float, device: torch.device) -> float:
    """What part of the multiplications that the machine can do, training does."""
    dtype = precision(recipe, device)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments).to(device)
    pixels = torch.zeros(recipe.batch_size, 1, 28, 28, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        labels = torch.zeros(len(pixels), dtype=torch.int64, device=device)
        functional.cross_entropy(network(pixels), labels).backward()  # type: ignore[no-untyped-call]
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    timer = Timer("a @ a", globals={"a": matrix}, num_threads=torch.get_num_threads())
    peak = 2 * PEAK_SIDE**3 / timer.blocked_autorange(min_run_time=1).median
    share: float = images_per_second * counter.get_total_flops() / recipe.batch_size / peak
    return share


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())
