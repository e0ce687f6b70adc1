"""A copy of the checkout under Docker Compose, and its running service."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.conftest import free_port

ROOT = Path(__file__).parents[2]
OWNER = 1234  # owner of models/ in the copy: neither root nor the image's user


@dataclass(frozen=True)
class Project:
    """A copy of the checkout with its own Compose project name and ports."""

    folder: Path
    name: str
    port: int
    balancer_port: int

    def compose(self, *arguments: str) -> str:
        """Runs `docker compose`; gives its standard output. A failing command fails the test."""
        ports = {"PORT": str(self.port), "BALANCER_PORT": str(self.balancer_port)}
        return run("docker", "compose", *arguments, folder=self.folder, COMPOSE_PROJECT_NAME=self.name, **ports)

    def run_in_service(self, *command: str) -> str:
        """Runs `command` in the service's container; gives its standard output."""
        return self.compose("exec", "-T", "service", *command).strip()

    def container_id(self) -> str:
        return self.compose("ps", "--all", "--quiet", "service").strip()


def run(*command: str, folder: Path = ROOT, **environment: str) -> str:
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"{' '.join(command)}\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("checkout")
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    if os.geteuid() == 0:
        os.chown(folder / "models", OWNER, OWNER)
    port = free_port()
    project = Project(folder, f"fashion-mnist-test-{port}", port, free_port())
    yield project
    project.compose("--profile", "*", "down", "--rmi", "local", "--remove-orphans")


@pytest.fixture(scope="module")
def service(project: Project) -> Project:
    """The project after `docker compose up`; the service is healthy."""
    project.compose("up", "--detach", "--wait", "--wait-timeout", "120")
    return project
