"""HAProxy with deploy/haproxy.cfg before three replicas: no request is lost while they die, hang and change."""

import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.soak.client import request
from tests.cluster.load import loaded, photo
from tests.cluster.replicas import CONFIG, HAPROXY, ROOT, START_SECONDS, Replica, balanced
from tests.service.conftest import poll

REQUESTS = 20_000
HANG_SECONDS = 6.0  # over `timeout server`, so that requests at the replica that hangs are sent to another
UNBUFFERED = CONFIG.replace("    option http-buffer-request\n", "")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which(HAPROXY), reason="HAProxy is not installed"),
]


def setting(name: str) -> int:
    """The number of a line of deploy/haproxy.cfg: bytes or seconds."""
    [value] = re.findall(rf"^ +{name} (\d+)s?\b", CONFIG, re.MULTILINE)
    return int(value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(ROOT / "models/model_scratch.pt", tmp_path_factory.mktemp("models") / "model.pt"))


@pytest.fixture(scope="module")
def started(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    folder = tmp_path_factory.mktemp("replicas")
    replicas = [Replica(model, folder / f"{number}.log") for number in range(3)]
    yield replicas
    for replica in replicas:
        replica.kill()


@pytest.fixture
def replicas(started: list[Replica]) -> list[Replica]:
    """Three replicas that are ready."""
    for replica in started:
        if not replica.is_running():
            replica.start()
    for replica in started:
        replica.wait_until_ready()
    return started


@pytest.mark.long
def test_no_request_fails_while_replicas_die_hang_and_change(
    replicas: list[Replica], model: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first, second, third = replicas
    with balanced(replicas, tmp_path / "haproxy") as balancer, loaded(balancer.port) as load:
        for killed in (first, second):
            killed.kill()
            killed.start()  # the second dies while the first starts
        for killed in (first, second):
            balancer.wait_until_up(killed)

        third.send(signal.SIGSTOP)
        load.over.wait(HANG_SECONDS)
        third.send(signal.SIGCONT)
        balancer.wait_until_up(third)

        old = set(load.latest.values())
        os.replace(shutil.copy(tiny_checkpoint, model.with_suffix(".new")), model)
        load.latest.clear()
        for _ in poll():
            if len(load.latest) == len(replicas) and not old & set(load.latest.values()):
                break

        before = set(load.latest)
        for replica in replicas:  # a new image: a rolling restart
            assert replica.drain() == 0
            replica.start()
            balancer.wait_until_up(replica)
        load.latest.clear()
        for _ in poll():
            if len(load.latest) == len(replicas):
                break
        assert not before & set(load.latest)
        load.wait_for(REQUESTS)
        retries = balancer.servers()["BACKEND"]["wretr"]

    slowest = load.stats.slowest()
    print(f"{load.stats.statuses()}, {retries} retries, slowest {slowest:.2f} s, {dict(load.stats.errors)}")
    assert load.stats.statuses().keys() == {200}
    assert load.stats.count(200) >= REQUESTS
    assert slowest <= setting("timeout server") + 1


def answer(client: socket.socket) -> int:
    """The status of the answer; 0 if there is none."""
    try:
        return int(client.makefile("rb").readline()[9:12] or 0)
    except ConnectionError:
        return 0


@pytest.mark.parametrize(("config", "statuses"), [(CONFIG, [200] * 3), (UNBUFFERED, [200, 200, 502])])
def test_a_replica_dies_during_an_upload(
    replicas: list[Replica], tmp_path: Path, config: str, statuses: list[int]
) -> None:
    """Each replica gets one of three uploads, by leastconn. Without `http-buffer-request` one of them is lost."""
    message = request(photo(500, 90), "image/jpeg")
    with balanced(replicas, tmp_path / "haproxy", config) as balancer:
        clients = [socket.create_connection(("127.0.0.1", balancer.port), START_SECONDS) for _ in replicas]
        for client in clients:
            client.sendall(message[: len(message) // 2])
        if config == UNBUFFERED:
            for _ in poll():
                if {row["scur"] for name, row in balancer.servers().items() if name != "BACKEND"} == {"1"}:
                    break
        replicas[0].kill()
        for client in clients:
            client.sendall(message[len(message) // 2 :])
        assert sorted(map(answer, clients)) == statuses
        for client in clients:
            client.close()


def test_a_body_over_the_buffer_is_forwarded(replicas: list[Replica], tmp_path: Path) -> None:
    picture = photo(1_500, 97)
    assert len(picture) > 2 * setting("tune.bufsize")
    with balanced(replicas, tmp_path / "haproxy") as balancer:
        address = f"http://127.0.0.1:{balancer.port}"
        assert httpx.post(f"{address}/predict", content=picture).status_code == 200
        assert httpx.get(f"{address}/health").status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 404


def test_a_body_over_the_buffer_may_pause_longer_than_an_answer_may_take(
    replicas: list[Replica], tmp_path: Path
) -> None:
    message = request(photo(1_500, 97), "image/jpeg")
    sent = 2 * setting("tune.bufsize")
    with (
        balanced(replicas, tmp_path / "haproxy") as balancer,
        socket.create_connection(("127.0.0.1", balancer.port), START_SECONDS) as client,
    ):
        client.sendall(message[:sent])
        threading.Event().wait(setting("timeout server") + 1)
        client.sendall(message[sent:])
        assert answer(client) == 200
