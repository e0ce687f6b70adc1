"""torchrun on two machines: two agents in network namespaces, each with a disk of its own. For root on Linux."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import load
from tests.training.processes import wait_for
from tests.training.small import SMALL
from tests.training.test_resume import same
from tests.training.test_run import ONE_THREAD, ROOT
from training.data import DEBIAN_DIR

TOOLS = ("ip", "mount", "unshare", "hostname")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PROCESSES = (2, 1)  # with three, the sum of the gradients depends on its order
PORT = 29500
NETWORK = {"GLOO_SOCKET_IFNAME": "eth0"}
REPLACEABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # else torchrun takes no new agent for one that was lost
SECONDS = 240.0  # for a run to end
RUN = ("--recipe", SMALL.name, "--device", "cpu")
# Mounts the folder $1 at $2 and a file of host names $3, sets the host name $4, and runs the rest.
ON_A_MACHINE = 'mount --bind "$1" "$2" && mount --bind "$3" /etc/hosts && hostname "$4" && shift 4 && exec "$@"'
NAMES = ("machine0", "machine1")
HOSTS = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for address, name in zip(ADDRESSES, NAMES, strict=True))

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="network namespaces need root on Linux"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"one of {', '.join(TOOLS)} is missing"),
    pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason=f"there is no {DEBIAN_DIR}"),
]


class Machine:
    """A network namespace and a folder that processes in it see as their disk."""

    def __init__(self, number: int, namespace: str, tmp_path: Path) -> None:
        self.number = number
        self.namespace = namespace
        self.folder = tmp_path / f"machine-{number}"
        self.disk = tmp_path / "disk"  # the same path in both
        self.hosts = tmp_path / "hosts"
        self.hosts.write_text(HOSTS)
        self.errors = tmp_path / f"errors-{number}"
        self.folder.mkdir()
        self.disk.mkdir(exist_ok=True)

    @contextmanager
    def agent(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """torchrun's agent and its workers; standard error goes to a file."""
        torchrun = (
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--nproc-per-node", str(PROCESSES[self.number]), "--max-restarts", "3",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}",
            "--rdzv-id", "test", "--local-addr", ADDRESSES[self.number],
        )  # fmt: skip
        command = ("-m", "tests.training.small", *RUN, "--resume", "--output", str(self.disk / "model.pt"))
        place = (str(self.folder), str(self.disk), str(self.hosts), NAMES[self.number])
        with (
            self.errors.open("a") as errors,
            subprocess.Popen(
                [
                    "ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "sh", "-c", ON_A_MACHINE,
                    "sh", *place, *torchrun, *command,
                ],
                cwd=ROOT, env=os.environ | ONE_THREAD | NETWORK | environment, stdout=subprocess.PIPE,
                stderr=errors, text=True,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
            finally:
                lose(process)


def workers(agent: subprocess.Popen[str]) -> list[int]:
    """The processes that an agent has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def kill_workers(agent: subprocess.Popen[str]) -> None:
    for pid in workers(agent):
        with suppress(ProcessLookupError):  # it has ended just now
            os.kill(pid, signal.SIGKILL)


def lose(agent: subprocess.Popen[str]) -> None:
    """Kills an agent and its workers, as when its machine loses power."""
    children = workers(agent)
    agent.kill()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    agent.wait()


def call(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def two_machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a network cable between them."""
    with ExitStack() as stack:
        namespaces = [f"torchrun-{os.getpid()}-{number}" for number in (0, 1)]
        for namespace in namespaces:
            call("ip", "netns", "add", namespace)
            stack.callback(call, "ip", "netns", "delete", namespace)
        first, second = namespaces
        call("ip", "link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for namespace, address in zip(namespaces, ADDRESSES, strict=True):
            call("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            call("ip", "-n", namespace, "link", "set", "eth0", "up")
            call("ip", "-n", namespace, "link", "set", "lo", "up")
        yield Machine(0, first, tmp_path), Machine(1, second, tmp_path)


def finish(*agents: subprocess.Popen[str]) -> list[str]:
    """The rest of each agent's standard output, after a run that succeeded."""
    texts = [agent.communicate(timeout=SECONDS)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * len(agents)
    return texts


def result(machines: tuple[Machine, Machine]) -> dict[str, torch.Tensor]:
    """The weights that a run has saved, on the disk of the main process and without anything beside them."""
    assert [[path.name for path in machine.folder.iterdir()] for machine in machines] == [["model.pt"], []]
    return load(machines[0].folder / "model.pt").state_dict


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of an undisturbed run."""
    with two_machines(tmp_path_factory.mktemp("undisturbed")) as machines:
        with machines[0].agent() as first, machines[1].agent() as second:
            finish(first, second)
        return result(machines)


def test_killed_workers_are_restarted_and_the_weights_are_those_of_an_undisturbed_run(
    tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    with two_machines(tmp_path) as machines:
        with machines[0].agent() as first, machines[1].agent() as second:
            for epoch, agent in ((1, second), (2, first)):
                wait_for(first, f"epoch  {epoch}/3")
                kill_workers(agent)
            text, _ = finish(first, second)
        assert "Resuming from " in text
        assert "epoch  1/3" not in text
        assert same(result(machines), expected)


def test_a_machine_that_is_lost_can_be_started_again_by_hand(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    """The machine of --rdzv-endpoint stays; it holds torchrun's rendezvous."""
    with two_machines(tmp_path) as machines:
        with machines[0].agent(**REPLACEABLE) as first:
            with machines[1].agent(**REPLACEABLE) as second:
                wait_for(first, "epoch  1/3")
                lose(second)
            with machines[1].agent(**REPLACEABLE) as second:
                text, _ = finish(first, second)
        assert "Resuming from " in text
        assert "epoch  1/3" not in text
        assert same(result(machines), expected)
