import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from service.server.run import available_cores, within_cores
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, SHOE, free_port, poll, started

RUN = "runpy.run_module('service', run_name='__main__')"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_skips_the_drain(tiny_checkpoint: Path, workers: str) -> None:
    flags = ("--model", str(tiny_checkpoint), "--workers", workers)
    with started(*flags, SERVICE_DRAIN_SECONDS="600") as (process, client):
        assert client.post("/predict", files={"file": SHOE.read_bytes()}).status_code == 200
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130


def test_the_environment_sets_the_model(tmp_path: Path) -> None:
    with started(SERVICE_MODEL=str(tmp_path / "mine.pt")) as (_, client):
        assert client.get("/health").json()["detail"].startswith("mine.pt does not exist")


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        ([], {"SERVICE_WORKERS": "many"}, "SERVICE_WORKERS is 'many'"),
        (["--port", "http"], {}, "--port is 'http'"),
        (["--porte", "1"], {}, "--porte"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    flags: list[str],
    environment: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit:
        main(flags)
    assert exit.value.code == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert words in sentence


def test_a_port_in_use_is_reported_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = subprocess.run(
            [sys.executable, "-m", "service", "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert process.returncode == 1
    assert "Address already in use" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_the_cores_of_a_container_follow_its_quota(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [(1, 1, 1, (1, 1)), (4, 1, 4, (4, 1)), (8, 1, 4, (4, 1)), (2, 4, 4, (2, 2)), (3, 2, 4, (3, 1)), (1, 8, 2, (1, 2))],
)
def test_workers_and_threads_are_limited_to_the_cores(
    workers: int, threads: int, cores: int, expected: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    settings = within_cores(Settings(workers=workers, threads=threads), cores)
    assert (settings.workers, settings.threads) == expected
    assert bool(caplog.records) == (expected != (workers, threads))


def test_idle_connections_leave_room_for_others(tiny_checkpoint: Path) -> None:
    """400 idle connections at a limit of 200 open files."""
    limit = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); {RUN}"
    port = free_port()
    command = [sys.executable, "-c", limit, "--port", str(port), "--model", str(tiny_checkpoint)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, ExitStack() as connections:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in poll(60):
                with suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
            for _ in range(400):
                connections.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(20):
                assert httpx.post(f"{url}/predict", files={"file": SHOE.read_bytes()}).status_code == 200
        finally:
            process.kill()
