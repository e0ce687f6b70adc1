"""Bulk scoring: nothing is lost, doubled or stuck, whatever is killed. Needs the extra `cluster`."""

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data")
from pyarrow import parquet

from benchmarks.processes import process_tree
from service import bulk, bulk_output
from tests.cluster.conftest import command, read, record_of, run_bulk

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600)]


KILLS = 6


def start(table: Path, output: Path, *flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(table, output, *flags), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_driver_loses_and_doubles_no_row(
    table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    output, record = tmp_path / "output", tmp_path / "output.resume"
    generator = random.Random(0)
    for kill in range(KILLS):
        process = start(table, output, *(["--resume"] if kill else []))
        with suppress(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0, 16))
        process.kill()
        process.wait()
        if output.exists() and (output / bulk_output.COMPLETE).exists():
            break
    if committed := [path for path in record.glob("rows/*.parquet") if ".pending" not in path.name]:
        committed[0].rename(committed[0].with_name(f"{committed[0].stem}.pending.parquet"))  # between file and commit
    run_bulk(table, output, "--resume")
    assert read(output) == undisturbed
    assert not record.exists()


def test_a_killed_scorer_is_replaced(table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    output = tmp_path / "output"
    process = start(table, output)
    killed: set[int] = set()
    for _ in range(2):
        wait_for(lambda: scorers(process, killed) or process.poll() is not None)
        for number in scorers(process, killed)[:1]:
            os.kill(number, signal.SIGKILL)
            killed.add(number)
    assert process.wait(300) == 0
    assert len(killed) == 2
    assert read(output) == undisturbed


def scorers(process: subprocess.Popen[bytes], known: set[int]) -> list[int]:
    """The ids of the processes with a network."""
    found = []
    for number in set(process_tree(process.pid)) - known:
        with suppress(OSError):
            if b"Scorer" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


@pytest.mark.parametrize("cores", ["0", "0-1"])
def test_it_does_not_hang_fresh_or_resumed(
    cores: str, table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    output, record = tmp_path / "output", tmp_path / "output.resume"
    run_bulk(table, output, cores=cores)
    assert read(output) == undisturbed
    # As if it had been killed: one file is committed, the others were not written.
    [kept, *lost] = sorted(output.glob("*.parquet"))
    for path in (*lost, output / bulk_output.COMPLETE):
        path.unlink()
    (record / bulk_output.ROWS_FOLDER).mkdir(parents=True)
    rows = parquet.read_table(kept, columns=["row"])
    parquet.write_table(rows, record / bulk_output.ROWS_FOLDER / "done.parquet")
    (record / bulk_output.RUN_FILE).write_text(json.dumps(record_of(table)))
    run_bulk(table, output, "--resume", cores=cores)
    assert read(output) == undisturbed


def test_it_runs_on_a_ray_cluster(table: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    """Four scorers, more than this machine may have cores."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # Ray's sockets need short paths
        head = {
            "num_cpus": 2 * 4 + bulk.OTHER_CPUS,
            "object_store_memory": bulk.OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "temp_dir": folder,
        }
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            run_bulk(table, tmp_path / "output", RAY_ADDRESS=nodes.address)
        finally:
            nodes.shutdown()
    assert read(tmp_path / "output") == undisturbed
