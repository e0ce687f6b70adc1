"""Bulk scoring (offline batch inference) on Ray Data: pictures in, Parquet with a prediction for each out.

    python -m service.bulk INPUT OUTPUT [--checkpoint FILE] [--photo-checkpoint FILE] [--batch-size N] [--resume]

INPUT is a folder, a glob or Parquet, OUTPUT a folder; both are local or on object storage. Each picture is scored
exactly once, also if the run is killed and continued with --resume. Progress lies in OUTPUT.resume until the run ends.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    try:
        import ray.data
    except ImportError as missing:
        sys.exit(f"service.bulk needs {missing.name}: pip install 'fashion-mnist-service[cluster]'.")

import ray
from pyarrow.fs import FileSystem
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError
from rich.console import Console

from service.bulk_input import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_ROWS,
    InputError,
    Listing,
    Pictures,
    first_line,
    list_pictures,
    locate,
)
from service.bulk_output import (
    complete,
    describe,
    prepare_output,
    rows_done,
    rows_folder,
    summarise,
)
from service.bulk_progress import BulkError, Progress, State, watch
from service.scorer import Scorer
from service.settings import Settings

CHECKPOINT, PHOTO_CHECKPOINT = (Settings.model_fields[name].default for name in ("model", "photo_model"))
ANSWER_SECONDS = 1.0  # within which the actor Progress answers, unless the CPU is busy
OBJECT_STORE_BYTES = 256 * 2**20  # 256 MiB for blocks between the operators
OTHER_CPUS = 4  # for the tasks that filter, split and write, beside one reader for each scorer
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m service.bulk", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("input", metavar="INPUT", help="folder, glob or Parquet; a path or s3://bucket/…")
    parser.add_argument("output", metavar="OUTPUT", help="folder for Parquet files, which must be empty")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="FILE",
                        help=f"network for images of Fashion-MNIST ({CHECKPOINT})")  # fmt: skip
    parser.add_argument("--photo-checkpoint", type=Path, metavar="FILE",
                        help=f"network for photos ({PHOTO_CHECKPOINT}, if there)")  # fmt: skip
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images in a batch (64)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(score(options)))
    except (BulkError, InputError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'INPUT or OUTPUT'} cannot be used: {error.strerror or first_line(error)}.",
              file=sys.stderr)  # fmt: skip
        return 1
    except KeyboardInterrupt:
        print("Interrupted; --resume goes on.", file=sys.stderr)
        return INTERRUPTED
    return 0


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Scores all pictures; returns the content of the last line.

    Raises BulkError, InputError, OSError.
    """
    begin = time.monotonic()
    console = Console(markup=False, highlight=False, stderr=True)
    listing = list_pictures(options.input)
    models = load_models(options.checkpoint, options.photo_checkpoint)
    filesystem, output = locate(options.output)
    output = output.rstrip("/")
    run = describe(listing, models, options.batch_size)
    if prepare_output(filesystem, output, run, options.resume, console):
        execute(listing, filesystem, output, models, options.batch_size, console)
    counts = summarise(listing, filesystem, output, console)
    seconds = round(time.monotonic() - begin, 1)
    return {"input": options.input, "output": options.output, **counts, "seconds": seconds}


def load_models(checkpoint: Path, photos: Path | None) -> dict[str, str]:
    """The SHA-256 of each network by the absolute path of its file. Raises BulkError.

    Another process loads them, since torch takes 0.3 GB. It ends by itself if this one is killed.
    """
    photos = photos or (PHOTO_CHECKPOINT if PHOTO_CHECKPOINT.exists() else None)
    command = [sys.executable, "-m", "service.bulk_models", str(checkpoint), *([str(photos)] if photos else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else {"error": "The networks could not be loaded."}
    if "error" in found:
        raise BulkError(found["error"])
    return dict(found)


def execute(
    listing: Listing, filesystem: FileSystem, output: str, models: dict[str, str], batch_size: int, console: Console
) -> None:
    """Runs Ray Data until all pictures are scored. Raises BulkError."""
    done = rows_done(filesystem, output)
    listing, total = listing.without(done), listing.rows
    if not listing.parts:
        complete(filesystem, output)
        return
    scorers = start_ray()
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = MAX_BLOCK_BYTES
    # Two-phase commit: of each output file, the row numbers are written before it and renamed after it.
    context.checkpoint_config = CheckpointConfig(
        "row", rows_folder(output), override_filesystem=filesystem, delete_checkpoint_on_success=False
    )
    context.checkpoint_config.checkpoint_actor_pool_max_size = 1  # so that no pool takes the CPUs of another
    context.checkpoint_config.checkpoint_actor_memory_bytes = 1
    progress = ray.remote(num_cpus=0)(Progress).remote()
    pictures = ray.data.read_datasource(
        Pictures(listing, progress), concurrency=scorers, override_num_blocks=len(listing.parts)
    )
    predictions = pictures.repartition(target_num_rows_per_block=MAX_BLOCK_ROWS).map_batches(
        Scorer,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=scorers),
        fn_constructor_args=(models, batch_size, progress),
    )
    failures: list[Exception] = []

    def write() -> None:
        try:
            predictions.write_parquet(output, filesystem=filesystem, concurrency=2)
        except Exception as error:  # a boundary: the main thread reports it
            failures.append(error)

    def state() -> State | None:
        try:
            found: State = ray.get(progress.state.remote(), timeout=ANSWER_SECONDS)
        except RayError:  # it has no time, or is lost
            return None
        return found

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        watch(thread, state, len(done), total, console)
    finally:
        ray.shutdown()
    if failures:
        cause = failures[0].__cause__ or failures[0]
        raise BulkError(f"The run failed; --resume goes on. {first_line(cause) or type(cause).__name__}")
    complete(filesystem, output)


def start_ray() -> int:
    """Starts Ray on this machine, or connects to the cluster of RAY_ADDRESS; returns the number of scorers.

    There are logical CPUs for all operators at once. So no operator waits for the CPU of another (a deadlock). Raises
    BulkError.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # after ray.shutdown, the thread that writes must not start Ray again
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < OTHER_CPUS + 2:
            raise BulkError(f"The Ray cluster has {cpus} CPUs; at least {OTHER_CPUS + 2} are needed.")
        return (cpus - OTHER_CPUS) // 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ray.init(
        num_cpus=2 * cores + OTHER_CPUS,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    return cores


if __name__ == "__main__":
    sys.exit(main())
