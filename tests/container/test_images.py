"""Builds and runs the images with Docker Compose, in a writable copy of the checkout:
`python -m pytest -m container -rP`.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from service.settings import Settings
from tests.container.conftest import ROOT, Project, run
from tests.service.conftest import poll
from training.data import DEBIAN_DIR, SHA256

MAX_BYTES = 950 * 10**6  # 950 MB: size of the service image without its base image
STOP_SECONDS = 10  # timeout of `docker compose stop`, after which Docker kills the container
LISTEN = "0A"  # state of a listening socket in /proc/net/tcp
DOCKER_DNS = "0B00007F:"  # 127.0.0.11, the name server of Docker itself
TRAINING_ONLY = ["matplotlib", "rich", "torchvision", "training"]

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]  # seconds; the first build downloads some gigabytes


@pytest.fixture
def client(service: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=10) as client:
        yield client


def test_up_starts_only_the_service(service: Project) -> None:
    assert service.compose("ps", "--all", "--services").split() == ["service"]


def test_predict_recognises_a_shoe(client: httpx.Client) -> None:
    answer = client.post("/predict", files={"file": (ROOT / "shoe.png").read_bytes()})
    print(answer.text)
    assert answer.status_code == 200
    assert (answer.json()["class"], answer.json()["index"]) == ("Ankle boot", 9)


def test_predict_refuses_a_text_file(client: httpx.Client) -> None:
    assert client.post("/predict", files={"file": b"not a picture"}).status_code == 415


def test_the_service_runs_without_root_and_capabilities(service: Project) -> None:
    assert service.run_in_service("id", "-u") == "1000"
    status = dict(
        line.split(":\t", 1) for line in service.run_in_service("cat", "/proc/1/status").splitlines() if ":\t" in line
    )
    capabilities = {name: int(status[name], base=16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert not any(capabilities.values()), capabilities
    assert status["NoNewPrivs"] == "1"


def test_only_the_tmp_folder_is_writable(service: Project) -> None:
    folders = "/ /app /app/models /opt/venv /tmp /var/tmp"
    program = f"for folder in {folders}; do touch $folder/x 2>/dev/null && echo $folder; done; true"
    assert service.run_in_service("sh", "-c", program).split() == ["/tmp"]


def test_the_root_file_system_is_read_only(service: Project) -> None:
    mounts = {
        line.split()[1]: line.split()[3].split(",")
        for line in service.run_in_service("cat", "/proc/mounts").splitlines()
    }
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/app/models"]


def test_the_service_is_limited(service: Project) -> None:
    host = json.loads(run("docker", "inspect", "--format", "{{json .HostConfig}}", service.container_id()))
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        2 * 2**30,
        2 * 2**30,
        10**9,
        512,
    )
    assert host["Tmpfs"] == {"/tmp": "size=64m"}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    assert int(service.run_in_service("stat", "--file-system", "--format", "%b", "/tmp")) * 4096 == 64 * 2**20


def test_the_image_has_no_pip_and_no_perl(service: Project) -> None:
    program = "command -v perl pip pip3 pip3.11; find / -xdev -name 'pip*.whl' -o -name ensurepip 2>/dev/null; true"
    assert service.run_in_service("sh", "-c", program) == ""
    for python in ("python", "/usr/bin/python3", "/usr/local/bin/python3"):
        program = f"command -v {python} >/dev/null && {python} -c 'import pip' 2>&1; true"
        assert "pip" not in service.run_in_service("sh", "-c", program).replace("No module named 'pip'", "")


def test_only_the_port_is_open(service: Project) -> None:
    sockets = [line.split() for line in service.run_in_service("cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    listening = {fields[1] for fields in sockets if fields[3] == LISTEN}
    assert {address for address in listening if not address.startswith(DOCKER_DNS)} == {f"00000000:{8000:04X}"}


def test_there_are_no_more_workers_than_cores(service: Project) -> None:
    options = ("--cpus", "1", "--env", "SERVICE_WORKERS=4", "--network", "none")
    container = run("docker", "run", "--detach", *options, f"{service.name}-service").strip()
    try:
        for _ in poll(60):
            if "Serving" in (log := run("sh", "-c", f"docker logs {container} 2>&1")):
                break
        assert "starting 1 worker" in log
        names = run("docker", "top", container, "-o", "pid,args").splitlines()
        assert [name for name in names if "python" in name] == names[1:2], names
    finally:
        run("docker", "rm", "--force", container)


def test_the_image_is_small(service: Project) -> None:
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if not run("docker", "image", "ls", "--quiet", base):
        run("docker", "pull", base)
    image_bytes, base_bytes = (
        int(run("docker", "image", "inspect", "--format", "{{.Size}}", name))
        for name in (f"{service.name}-service", base)
    )
    print(f"{(image_bytes - base_bytes) / 10**6:.0f} MB on top of {base}")
    assert image_bytes - base_bytes <= MAX_BYTES


def test_the_image_contains_no_training_code(service: Project) -> None:
    program = f"import importlib.util as u; print([name for name in {TRAINING_ONLY} if u.find_spec(name)])"
    assert service.run_in_service("python", "-c", program) == "[]"
    assert set(service.run_in_service("ls", "/app").split()) == {"LICENSE", "classifier", "models", "service"}


def test_the_image_has_the_pinned_versions(service: Project) -> None:
    program = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    installed = {
        normalised(name): version
        for name, version in map(str.split, service.run_in_service("python", "-c", program).splitlines())
    }
    lines = re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements/service.txt").read_text(), re.MULTILINE)
    pinned = dict(lines)
    [pinned["torch"]] = re.findall(r"^ARG TORCH_VERSION=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    installed["torch"] = installed["torch"].partition("+")[0]
    assert "fastapi" in installed
    assert installed.items() <= pinned.items()


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_gpu_override_requests_a_gpu_and_cuda(project: Project) -> None:
    files = ("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml")
    services = json.loads(project.compose(*files, "--profile", "train", "config", "--format", "json"))["services"]
    assert services.keys() == {"service", "train"}
    for service in services.values():
        assert re.search(r"/whl/cu\d+$", service["build"]["args"]["TORCH_INDEX"])
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


def test_files_written_by_train_belong_to_the_owner_of_the_checkout(project: Project) -> None:
    owner = (project.folder / "models").stat().st_uid
    project.compose("run", "--rm", "-T", "train", "--help")
    assert (project.folder / "data").stat().st_uid == owner  # created by Docker, as root

    for name in SHA256:
        shutil.copy(DEBIAN_DIR / f"{name}.gz", project.folder / "data")
    options = ("--recipe", "tutorial-logits", "--epochs", "1", "--batch-size", "1000")
    report = project.compose("run", "--rm", "-T", "train", *options, "--output", "models/new.pt")
    assert json.loads(report.splitlines()[-1])["recipe"] == "tutorial-logits"
    assert (project.folder / "models/new.pt").stat().st_uid == owner


def test_it_drains_and_exits_with_0_under_load(service: Project, client: httpx.Client) -> None:
    """Must be the last test of the module: it stops the service."""
    statuses: list[int] = []
    refused: list[float] = []  # seconds from the stop until a connection failed
    stopped = threading.Event()

    def send_requests() -> None:
        while not stopped.wait(0.2):
            try:
                statuses.append(client.post("/predict", files={"file": (ROOT / "shoe.png").read_bytes()}).status_code)
            except httpx.TransportError:
                refused.append(time.monotonic() - begin)
                return

    client_thread = threading.Thread(target=send_requests)
    begin = time.monotonic()
    client_thread.start()
    try:
        service.compose("stop", "--timeout", str(STOP_SECONDS))
        seconds = time.monotonic() - begin
    finally:
        stopped.set()
        client_thread.join()
    state = json.loads(run("docker", "inspect", "--format", "{{json .State}}", service.container_id()))
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)
    print(f"{len(statuses)} answers while the service stopped, in {seconds:.1f} s")
    assert seconds < STOP_SECONDS
    assert set(statuses) == {200}
    assert all(after >= Settings().drain_seconds for after in refused), refused
