"""Replicas of the service and HAProxy in front of them, as processes on ports of this machine."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.service.conftest import free_port, poll

ROOT = Path(__file__).parents[2]
HAPROXY = os.environ.get("HAPROXY", "haproxy")
CONFIG = (ROOT / "deploy/haproxy.cfg").read_text()
START_SECONDS = 90.0  # until a replica that starts under load on one core has its model


class Replica:
    """One `python -m service` on a port that it keeps over restarts."""

    def __init__(self, model: Path, log: Path) -> None:
        self.port = free_port()
        self._log = log
        self._environment = {
            **os.environ, "SERVICE_MODEL": str(model), "SERVICE_PHOTO_MODEL": "", "SERVICE_PORT": str(self.port),
            "SERVICE_ACCESS_LOG": "false",
        }  # fmt: skip
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "service"], env=self._environment, stderr=log)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def drain(self) -> int:
        """Stops it with SIGTERM; gives the exit code."""
        self._process.terminate()
        return self._process.wait(START_SECONDS)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        for _ in poll(START_SECONDS):
            assert self.is_running(), self._log.read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                    return
            except httpx.TransportError:
                continue


class Balancer:
    """HAProxy with deploy/haproxy.cfg, changed in the addresses only."""

    def __init__(self, config: str, replicas: list[Replica], folder: Path) -> None:
        self.port = free_port()
        self._socket = folder / "haproxy.sock"
        servers = "\n".join(f"    server replica{replica.port} 127.0.0.1:{replica.port}" for replica in replicas)
        for pattern, text in ((r"bind :8000", f"bind 127.0.0.1:{self.port}"), (r" +server-template .+", servers)):
            config, found = re.subn(pattern, text, config)
            assert found == 1, pattern
        path = folder / "haproxy.cfg"
        path.write_text(config)
        self._process = subprocess.Popen([HAPROXY, "-W", "-db", "-S", str(self._socket), "-f", str(path)])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def servers(self) -> dict[str, dict[str, str]]:
        """HAProxy's statistics of each replica, and under BACKEND of all together: `status`, `scur`, `wretr`, …"""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._socket))
            client.sendall(b"@1 show stat\n")
            client.shutdown(socket.SHUT_WR)
            rows = csv.DictReader(client.makefile().read().removeprefix("# ").splitlines())
            return {row["svname"]: row for row in rows if row["pxname"] == "replicas"}

    def wait_until_up(self, replica: Replica) -> None:
        replica.wait_until_ready()
        for _ in poll():
            if self.servers()[f"replica{replica.port}"]["status"] == "UP":
                return


@contextmanager
def balanced(replicas: list[Replica], folder: Path, config: str = CONFIG) -> Iterator[Balancer]:
    """HAProxy in front of these replicas, once it has found all of them healthy."""
    folder.mkdir()
    balancer = Balancer(config, replicas, folder)
    try:
        for _ in poll():
            with suppress(OSError):  # its socket is not there, or not ready
                if [row["check_status"] for row in balancer.servers().values()] == ["L7OK"] * len(replicas) + [""]:
                    break
        yield balancer
    finally:
        balancer.close()
