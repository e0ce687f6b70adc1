"""Training time and accuracy: `python -m benchmarks.bench_train [--seeds N]`.

Runs the baseline (tutorial_baseline.py) and the recipes `tutorial`, `tutorial-logits` and `fast`, each by the command
of a user, one after the other and seed by seed, so that drift of the machine affects all alike. Accuracy over time is
that on validation images; the test set is read once a run, at its end. Prints tables and ends with one line of JSON.
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

from benchmarks.rows import TABLE_HEAD, Row
from classifier.checkpoint import load
from classifier.classifier import find_device
from classifier.networks import ARCHITECTURES
from training import data
from training.loop import Run, plan_epoch, train_epoch, validate
from training.optimizer import make_optimizer
from training.pruning import Pruning
from training.recipes import Recipe, find_recipe, make_network
from training.step import Step, compute_dtype

LEVELS = (0.783, 0.88, 0.92, 0.94)  # accuracies; the first is that of the baseline
BASELINE = "baseline"
PEAK_SIDE = 2048  # rows of the square matrices whose product measures the machine's peak FLOP/s


@dataclass(frozen=True)
class Result:
    """One training. Accuracies are fractions, times seconds of training and validation."""

    contender: str
    seed: int
    seconds: float
    test_accuracy: float
    ece: float | None  # expected calibration error; None for the baseline
    history: list[dict[str, float]]  # with `seconds` and `validation_accuracy`, one entry per epoch
    images: float  # trained on, in all epochs together
    peak_mib: float  # resident memory

    def seconds_to(self, accuracy: float) -> float | None:
        """The time at the end of the first epoch with that validation accuracy; None if no epoch has it."""
        return next((epoch["seconds"] for epoch in self.history if epoch["validation_accuracy"] >= accuracy), None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_train", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each contender (default: 3)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the four Fashion-MNIST files")
    options = parser.parse_args()
    device = find_device()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for contender in (BASELINE, "tutorial", "tutorial-logits", "fast"):
                result = measure(contender, seed, Path(folder), options.data_dir)
                print(f"{contender}, seed {seed}: {result.test_accuracy:.2%} after {result.seconds:.1f} s", flush=True)
                results.append(result)
    fast = find_recipe("fast", device.type)
    level = mean(result.test_accuracy for result in results if result.contender == BASELINE)
    to_baseline = [seconds_to(level, fast, seed, device, options.data_dir) for seed in range(options.seeds)]
    print_tables(results, to_baseline, level, device)
    rows = table(results, to_baseline, device)
    print(*("", TABLE_HEAD, *(row.line() for row in rows), ""), sep="\n")
    print(
        json.dumps(
            {
                "machine": machine(device),
                "torch": torch.__version__,
                "runs": [asdict(result) for result in results],
                "seconds_to_baseline_accuracy": to_baseline,
                "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
            }
        )
    )
    return int(any(row.verdict == "FAIL" for row in rows))


def measure(contender: str, seed: int, folder: Path, data_dir: Path | None) -> Result:
    """Runs the contender's command in its own process."""
    output = folder / "model.pt"
    if contender == BASELINE:
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
    last_line = json.loads(printed.splitlines()[-1])
    history = last_line["history"] if contender == BASELINE else load(output).training["history"]
    return Result(
        contender,
        seed,
        last_line["seconds"],
        last_line["test_accuracy"],
        last_line.get("ece"),
        history,
        images=sum(epoch["images"] for epoch in history),
        peak_mib=usage.ru_maxrss / 2**10,
    )


class Reached(Exception):
    """Ends training; its argument is the time in seconds."""


def seconds_to(level: float, recipe: Recipe, seed: int, device: torch.device, data_dir: Path | None) -> float:
    """Seconds of training until the validation accuracy is `level`, which is checked every few steps.

    The time of the checks and of a GPU's warm-up is excluded.
    """
    images, _ = data.load(data_dir)
    training, validation = data.split(images.to(device), recipe.validation_images, seed)
    start = time.perf_counter()
    torch.manual_seed(seed)
    network = make_network(recipe, training).to(device)
    optimizer = make_optimizer(recipe, network)
    pruning = Pruning(recipe, len(training), device)
    step = Step(recipe, network, training, optimizer, pruning.losses)
    run = Run(recipe, network, training, validation, seed)
    warmup = time.perf_counter()
    step.capture()
    excluded = time.perf_counter() - warmup

    def check(images: int, loss: float) -> None:
        nonlocal excluded
        pause = time.perf_counter()
        if validate(recipe, network, validation)[1] >= level:
            raise Reached(pause - start - excluded)
        network.train()
        excluded += time.perf_counter() - pause

    try:
        for number in range(1, recipe.epochs + 1):
            train_epoch(run, plan_epoch(pruning, seed, number), step, pruning, check)
    except Reached as reached:
        seconds: float = reached.args[0]
        return seconds
    return float("inf")


def print_tables(results: Sequence[Result], to_baseline: Sequence[float], level: float, device: torch.device) -> None:
    names = list(dict.fromkeys(result.contender for result in results))
    print("\n| | test accuracy | calibration error | seconds | images/s | fraction of peak FLOP/s | peak memory MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in names:
        own = [result for result in results if result.contender == name]
        seconds, rate = mean(result.seconds for result in own), mean(result.images / result.seconds for result in own)
        fraction = fraction_of_peak(find_recipe("tutorial" if name == BASELINE else name, device.type), rate, device)
        errors = [100 * result.ece for result in own if result.ece is not None]
        print(
            f"| {name} | {spread([100 * result.test_accuracy for result in own])} % "
            f"| {f'{spread(errors)} %' if errors else ''} | {seconds:.0f} | {rate:,.0f} "
            f"| {fraction:.1%} | {max(result.peak_mib for result in own):,.0f} |"
        )
    print("\n| seconds to a validation accuracy of |", " | ".join(f"{level:.1%}" for level in LEVELS), "|")
    print("|---|" + "---:|" * len(LEVELS))
    for name in names:
        cells = []
        for accuracy in LEVELS:
            times = [result.seconds_to(accuracy) for result in results if result.contender == name]
            reached = [seconds for seconds in times if seconds is not None]
            cells.append(
                f"{mean(reached):.1f}" if len(reached) == len(times) else f"{len(reached)} of {len(times)} runs"
            )
        print(f"| {name} |", " | ".join(cells), "|")
    print(f"\nfast to the baseline's accuracy of {level:.2%}: {spread(to_baseline)} s; {machine(device)}")


def table(results: Sequence[Result], to_baseline: Sequence[float], device: torch.device) -> list[Row]:
    """The rows with a limit each."""
    baseline = mean(result.seconds for result in results if result.contender == BASELINE)
    fast = [result for result in results if result.contender == "fast"]
    accuracy, seconds = mean(result.test_accuracy for result in fast), mean(result.seconds for result in fast)
    if device.type != "cpu":
        return [
            Row("fast: test accuracy, %", 100 * accuracy, 94.0),
            Row("fast: seconds", seconds, 5, 1.5, at_least=False),
        ]
    return [
        Row(
            "fast: test accuracy, %",
            100 * accuracy,
            93.5,
            94.0,
            note=spread([100 * result.test_accuracy for result in fast]),
        ),
        Row("fast: time over the baseline's", seconds / baseline, 1, 0.5, at_least=False),
        Row("the baseline's time over fast's to the same accuracy", baseline / mean(to_baseline), 100, 200),
    ]


def fraction_of_peak(recipe: Recipe, images_per_second: float, device: torch.device) -> float:
    """The FLOP/s of training over those of a large matrix product, the machine's peak."""
    dtype = compute_dtype(recipe, device)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments).to(device)
    pixels = torch.zeros(recipe.batch_size, 1, 28, 28, dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        labels = torch.zeros(len(pixels), dtype=torch.int64, device=device)
        functional.cross_entropy(network(pixels), labels).backward()  # type: ignore[no-untyped-call]
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)
    timer = Timer("a @ a", globals={"a": matrix}, num_threads=torch.get_num_threads())
    peak = 2 * PEAK_SIDE**3 / timer.blocked_autorange(min_run_time=1).median
    fraction: float = images_per_second * counter.get_total_flops() / recipe.batch_size / peak
    return fraction


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())
