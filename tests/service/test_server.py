import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.__main__ import main
from service.protocol import AWAKE_SECONDS, PunctualProtocol
from service.server import LISTENERS, available_cores, listen, within_cores
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, SHOE, started


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_it_without_a_drain(tiny_checkpoint: Path, workers: str) -> None:
    flags = ("--model", str(tiny_checkpoint), "--workers", workers)
    with started(*flags, SERVICE_DRAIN_SECONDS="600") as (process, client):
        assert client.post("/predict", files={"file": SHOE.read_bytes()}).status_code == 200
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130


def test_the_environment_names_the_model(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("workers", "count"), [(1, LISTENERS), (2, 1)])
def test_one_worker_accepts_several_connections_at_once_and_two_share_them(workers: int, count: int) -> None:
    listeners = listen(uvicorn.Config("service.server:application", port=0, workers=workers))
    try:
        assert len({listener.getsockname() for listener in listeners}) == 1
        assert len({listener.fileno() for listener in listeners}) == len(listeners) == count
    finally:
        for listener in listeners:
            listener.close()


def test_after_a_lone_answer_the_core_does_not_sleep_at_once(client: httpx.Client) -> None:
    begin = time.monotonic()
    assert client.post("/predict", files={"file": SHOE.read_bytes()}).status_code == 200
    assert begin < PunctualProtocol.awake_until < time.monotonic() + AWAKE_SECONDS


def test_a_port_that_is_taken_is_told() -> None:
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
def test_the_cores_of_a_container_are_those_of_its_quota(
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
def test_workers_and_threads_never_outnumber_the_cores(
    workers: int, threads: int, cores: int, expected: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    settings = within_cores(Settings(workers=workers, threads=threads), cores)
    assert (settings.workers, settings.threads) == expected
    assert bool(caplog.records) == (expected != (workers, threads))
