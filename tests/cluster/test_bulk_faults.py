"""Bulk scoring after kills: no row is lost or doubled, and no run hangs. Needs the extra `cluster`."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data")
import pyarrow as pa
from pyarrow import parquet

from benchmarks.processes import process_tree
from service import bulk, bulk_output
from tests.cluster.conftest import command, read, record_of, run_bulk
from tests.service.conftest import poll

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]

KILLS = 6
KILL_SECONDS = 120.0  # within which a run that is to be killed has committed a file


def start(table: Path, output: Path, *flags: str, cores: str = "0-1") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(table, output, *flags, cores=cores),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def committed(record: Path) -> list[Path]:
    """The files with the numbers of the rows that are in OUTPUT."""
    return [path for path in record.glob(f"{bulk_output.ROWS_FOLDER}/*.parquet") if ".pending" not in path.name]


def run_and_kill(table: Path, output: Path, seconds: float, after_file: bool) -> bool:
    """Starts or resumes a run, and kills it after `seconds`, or when it has committed one more file; False if it ended
    before."""
    record = output.with_name(f"{output.name}.resume")
    before = len(committed(record))
    process = start(table, output, *(["--resume"] if record.exists() else []))
    with suppress(subprocess.TimeoutExpired):
        if after_file:
            for _ in poll(KILL_SECONDS):
                if process.poll() is not None or len(committed(record)) > before:
                    break
        else:
            process.wait(seconds)
    killed = process.poll() is None
    process.kill()
    process.wait()
    return killed


def test_a_killed_driver_loses_and_doubles_no_row(
    table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    output, record = tmp_path / "output", tmp_path / "output.resume"
    generator, kills = random.Random(0), 0
    while kills < KILLS:  # the third and the last one with a committed file
        if run_and_kill(table, output, generator.uniform(0, 8), after_file=kills % 3 == 2):
            kills += 1
        else:
            shutil.rmtree(output)
    first = committed(record)[0]
    first.rename(first.with_name(f"{first.stem}.pending.parquet"))  # as if killed between file and commit
    run_bulk(table, output, "--resume", cores="0-1")
    assert read(output) == undisturbed
    assert not record.exists()


def test_a_driver_that_is_killed_after_the_last_row_has_only_to_end(
    table: Path, tmp_path: Path, output: Path, undisturbed: list[dict[str, Any]]
) -> None:
    copy, record = tmp_path / "copy", tmp_path / "copy.resume"
    shutil.copytree(output, copy, ignore=shutil.ignore_patterns(bulk_output.COMPLETE))
    (record / bulk_output.ROWS_FOLDER).mkdir(parents=True)
    parquet.write_table(pa.table({"row": range(len(undisturbed))}), record / bulk_output.ROWS_FOLDER / "done.parquet")
    (record / bulk_output.RUN_FILE).write_text(json.dumps(record_of(table)))
    assert bulk.main([str(table), str(copy), "--resume"]) == 0  # it does not start Ray
    assert read(copy) == undisturbed
    assert (copy / bulk_output.COMPLETE).exists()


def scorers(process: subprocess.Popen[bytes], known: set[int]) -> list[int]:
    """The ids of the processes with a network."""
    found = []
    for number in set(process_tree(process.pid)) - known:
        with suppress(OSError):
            if b"Scorer" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


def undo(output: Path, table: Path) -> None:
    """Makes the output of a run that has ended as if it had been killed: one file is committed, no other is written."""
    record = output.with_name(f"{output.name}.resume")
    [kept, *lost] = sorted(output.glob("*.parquet"))
    for path in (*lost, output / bulk_output.COMPLETE):
        path.unlink()
    (record / bulk_output.ROWS_FOLDER).mkdir(parents=True)
    rows = parquet.read_table(kept, columns=["row"])
    parquet.write_table(rows, record / bulk_output.ROWS_FOLDER / "done.parquet")
    (record / bulk_output.RUN_FILE).write_text(json.dumps(record_of(table)))


def test_a_killed_scorer_is_replaced_and_one_core_suffices(
    table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """Fresh, and resumed without a kill. The fixture `output` and the other tests run on two cores."""
    output = tmp_path / "output"
    process = start(table, output, cores="0")
    killed: set[int] = set()
    for _ in range(2):
        for _ in poll(KILL_SECONDS):
            if scorers(process, killed) or process.poll() is not None:
                break
        for number in scorers(process, killed)[:1]:
            os.kill(number, signal.SIGKILL)
            killed.add(number)
    assert process.wait(300) == 0
    assert len(killed) == 2
    assert read(output) == undisturbed
    undo(output, table)
    run_bulk(table, output, "--resume", cores="0")
    assert read(output) == undisturbed


def test_it_runs_on_a_ray_cluster_fresh_and_resumed(
    table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """Four scorers, as on four cores, which this machine may not have."""
    from ray.cluster_utils import Cluster

    output = tmp_path / "output"
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # Ray's sockets need short paths
        head = {
            "num_cpus": 2 * 4 + bulk.OTHER_CPUS,
            "object_store_memory": bulk.OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "temp_dir": folder,
        }
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            run_bulk(table, output, RAY_ADDRESS=nodes.address)
            assert read(output) == undisturbed
            undo(output, table)
            run_bulk(table, output, "--resume", RAY_ADDRESS=nodes.address)
        finally:
            nodes.shutdown()
    assert read(output) == undisturbed
