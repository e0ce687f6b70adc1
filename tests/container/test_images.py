"""The images as users build and run them, in a copy of the checkout that may be written to.

python -m pytest -m container -rP
"""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.service.conftest import poll
from training.data import DEBIAN_DIR, SHA256

ROOT = Path(__file__).parents[2]
MAX_BYTES = 950 * 10**6  # of the service's image, on top of its base
STOP_SECONDS = 10  # what `docker compose stop` grants before it kills
LISTENS = "0A"  # the state of a socket in /proc/net/tcp
DOCKERS_NAMES = "0B00007F:"  # 127.0.0.11, where Docker itself answers for the names of containers
OWNER = 1234  # of the copy's models/: neither root nor the image's own user
TRAINING_ONLY = ["matplotlib", "rich", "torchvision", "training.data", "training.run"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]  # seconds: the first build downloads some gigabytes


@dataclass(frozen=True)
class Project:
    """A copy of the checkout under a project name and a port of its own."""

    folder: Path
    name: str
    port: int

    def compose(self, *arguments: str) -> str:
        """What `docker compose` with these arguments prints on standard output; the test fails if it fails."""
        return run(
            "docker", "compose", *arguments, folder=self.folder, COMPOSE_PROJECT_NAME=self.name, PORT=str(self.port)
        )

    def inside(self, *command: str) -> str:
        """What `command` prints in the running service's container."""
        return self.compose("exec", "-T", "service", *command).strip()

    def container(self) -> str:
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project = Project(folder, f"fashion-mnist-test-{port}", port)
    yield project
    project.compose("--profile", "*", "down", "--rmi", "local", "--remove-orphans")


@pytest.fixture(scope="module")
def service(project: Project) -> Project:
    """The project after `docker compose up`, healthy."""
    project.compose("up", "--detach", "--wait", "--wait-timeout", "120")
    return project


@pytest.fixture
def client(service: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=10) as client:
        yield client


def test_up_starts_the_service_alone(service: Project) -> None:
    assert service.compose("ps", "--all", "--services").split() == ["service"]


def test_it_knows_a_shoe(client: httpx.Client) -> None:
    answer = client.post("/predict", files={"file": (ROOT / "shoe.png").read_bytes()})
    print(answer.text)
    assert answer.status_code == 200
    assert (answer.json()["class"], answer.json()["index"]) == ("Ankle boot", 9)


def test_it_refuses_a_wrong_file(client: httpx.Client) -> None:
    assert client.post("/predict", files={"file": b"not a picture"}).status_code == 415


def test_it_runs_without_rights(service: Project) -> None:
    assert service.inside("id", "-u") == "1000"
    status = dict(
        line.split(":\t", 1) for line in service.inside("cat", "/proc/1/status").splitlines() if ":\t" in line
    )
    capabilities = {name: int(status[name], base=16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert not any(capabilities.values()), capabilities
    assert status["NoNewPrivs"] == "1"


def test_it_can_write_to_the_tmp_folder_alone(service: Project) -> None:
    folders = "/ /app /app/models /opt/venv /tmp /var/tmp"
    written = f"for folder in {folders}; do touch $folder/x 2>/dev/null && echo $folder; done; true"
    assert service.inside("sh", "-c", written).split() == ["/tmp"]


def test_its_root_file_system_is_read_only(service: Project) -> None:
    mounts = {
        line.split()[1]: line.split()[3].split(",") for line in service.inside("cat", "/proc/mounts").splitlines()
    }
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/app/models"]


def test_nothing_listens_but_the_port(service: Project) -> None:
    sockets = [line.split() for line in service.inside("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    listening = {fields[1] for fields in sockets if fields[3] == LISTENS}
    assert {address for address in listening if not address.startswith(DOCKERS_NAMES)} == {f"00000000:{8000:04X}"}


def test_it_starts_no_more_workers_than_it_has_cores(service: Project) -> None:
    options = ("--cpus", "1", "--env", "SERVICE_WORKERS=4", "--network", "none")
    container = run("docker", "run", "--detach", *options, f"{service.name}-service").strip()
    try:
        for _ in poll(60):
            if "Serving" in (log := run("sh", "-c", f"docker logs {container} 2>&1")):
                break
        assert "starting 1 of 1" in log
        names = run("docker", "top", container, "-o", "pid,args").splitlines()
        assert [name for name in names if "python" in name] == names[1:2], names
    finally:
        run("docker", "rm", "--force", container)


def test_the_image_is_small(service: Project) -> None:
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if not run("docker", "image", "ls", "--quiet", base):
        run("docker", "pull", base)
    image, below = (
        int(run("docker", "image", "inspect", "--format", "{{.Size}}", name))
        for name in (f"{service.name}-service", base)
    )
    print(f"{(image - below) / 10**6:.0f} MB on top of {base}")
    assert image - below <= MAX_BYTES


def test_the_image_holds_nothing_of_the_training(service: Project) -> None:
    program = f"import importlib.util as u; print([name for name in {TRAINING_ONLY} if u.find_spec(name)])"
    assert service.inside("python", "-c", program) == "[]"
    assert set(service.inside("ls", "/app").split()) == {"LICENSE", "classifier", "models", "service"}


def test_the_image_holds_the_pinned_versions(service: Project) -> None:
    program = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    installed = {
        normal(name): version for name, version in map(str.split, service.inside("python", "-c", program).splitlines())
    }
    lines = re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements/service.txt").read_text(), re.MULTILINE)
    pinned = dict(lines)
    [pinned["torch"]] = re.findall(r"^ARG TORCH_VERSION=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    installed["torch"] = installed["torch"].partition("+")[0]
    assert "fastapi" in installed
    assert installed.items() <= pinned.items()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_gpu_override_asks_for_a_gpu_and_cuda(project: Project) -> None:
    files = ("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml")
    services = json.loads(project.compose(*files, "--profile", "train", "config", "--format", "json"))["services"]
    assert services.keys() == {"service", "train"}
    for service in services.values():
        assert re.search(r"/whl/cu\d+$", service["build"]["args"]["TORCH_INDEX"])
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_what_train_writes_belongs_to_the_owner_of_the_checkout(project: Project) -> None:
    owner = (project.folder / "models").stat().st_uid
    project.compose("run", "--rm", "-T", "train", "--help")
    assert (project.folder / "data").stat().st_uid == owner  # Docker made it, as root

    for name in SHA256:
        shutil.copy(DEBIAN_DIR / f"{name}.gz", project.folder / "data")
    brief = ("--recipe", "tutorial-logits", "--epochs", "1", "--batch-size", "1000")
    report = project.compose("run", "--rm", "-T", "train", *brief, "--output", "models/new.pt")
    assert json.loads(report.splitlines()[-1])["recipe"] == "tutorial-logits"
    assert (project.folder / "models/new.pt").stat().st_uid == owner


def test_it_drains_and_ends_well_under_load(service: Project, client: httpx.Client) -> None:
    """The last test here: nothing runs after it."""
    statuses: list[int] = []
    gone: list[float] = []  # seconds after which nothing answered any longer
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.2):
            try:
                statuses.append(client.post("/predict", files={"file": (ROOT / "shoe.png").read_bytes()}).status_code)
            except httpx.TransportError:  # it has gone
                gone.append(time.monotonic() - begin)
                return

    asking = threading.Thread(target=ask)
    begin = time.monotonic()
    asking.start()
    try:
        service.compose("stop", "--timeout", str(STOP_SECONDS))
        seconds = time.monotonic() - begin
    finally:
        ended.set()
        asking.join()
    state = json.loads(run("docker", "inspect", "--format", "{{json .State}}", service.container()))
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    print(f"{len(statuses)} answers in the {seconds:.1f} s that stopping took")
    assert seconds < STOP_SECONDS
    assert set(statuses) == {200}
    assert all(after >= Settings().drain_seconds for after in gone), gone
