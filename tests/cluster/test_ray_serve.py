"""The service on Ray Serve: a real cluster of three nodes under load while replicas, nodes and checkpoints change.

Needs the extra `cluster` and HAProxy.
"""

import http.client
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.processes import cpu_seconds, free_port, process_tree
from classifier.checkpoint import load, save
from tests.service.conftest import poll, started

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("haproxy"), reason="there is no haproxy"),
]

CONFIG = yaml.safe_load(Path("deploy/ray-serve.yaml").read_text())
CONNECTIONS = 8
OBJECT_STORE_BYTES = 100 * 2**20  # 100 MiB
PICTURE = Path("shoe.png").read_bytes()
MAX_CPU_RATIO = 3.0
STOP_SECONDS = 5.0  # the controller would end after over 30 s


def wait_for(condition: Callable[[], object], seconds: float) -> float:
    """Returns when the condition holds, and after how many seconds."""
    begin = time.monotonic()
    for _ in poll(seconds):
        if condition():
            break
    return time.monotonic() - begin


class Load:
    """Threads with a keep-alive connection each that post a picture again and again."""

    def __init__(self, port: int, retries: int = 0) -> None:
        self.port, self.retries = port, retries
        self.statuses: Counter[int] = Counter()
        self.failures = 0
        self.models: set[str] = set()
        self.slowest = 0.0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(CONNECTIONS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(self.statuses.values())

    def _post(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._end.is_set():
            begin = time.monotonic()
            for attempt in range(1 + self.retries):
                try:
                    connection.request("POST", "/predict", PICTURE)
                    response = connection.getresponse()
                    body = response.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                    if attempt == self.retries:
                        self.failures += 1
                else:
                    self.statuses[response.status] += 1
                    if response.status == 200:
                        self.models.add(body.rpartition(b'"model":"')[2][:20].decode())
                    break
            self.slowest = max(self.slowest, time.monotonic() - begin)
        connection.close()


class Cluster:
    """A head without replicas, and two nodes, each with room for both replicas."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self.port = free_port()
        self.model = folder / "model.pt"
        shutil.copy("models/model_scratch.pt", self.model)
        self.nodes = Nodes(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "temp_dir": str(folder / "ray"),
            },
        )
        self.workers = [self._add() for _ in range(2)]
        ray.init(self.nodes.address, log_to_driver=False)

    def _add(self) -> Any:
        return self.nodes.add_node(num_cpus=2, object_store_memory=OBJECT_STORE_BYTES)

    def deploy(self, replicas: int = 2, **environment: str) -> None:
        """Deploys deploy/ray-serve.yaml with so many replicas, and waits until they run."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        config = yaml.safe_load(yaml.safe_dump(CONFIG))
        [application] = config["applications"]
        application["runtime_env"]["env_vars"] |= {"SERVICE_MODEL": str(self.model), **environment}
        application["runtime_env"]["env_vars"]["PYTHONPATH"] = os.getcwd()
        application["deployments"][0]["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
        config["http_options"]["port"] = self.port
        ray.serve.start(http_options=config["http_options"], proxy_location=config["proxy_location"])
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
        wait_for(lambda: self.replicas() == replicas, 60)

    def replicas(self) -> int:
        application = ray.serve.status().applications.get("fashion-mnist")
        if application is None or application.status != "RUNNING":
            return -1
        return sum(status.replica_states.get("RUNNING", 0) for status in application.deployments.values())

    def kill_a_node(self) -> None:
        """Ends a node that runs a replica, at once, and adds another."""
        self.nodes.remove_node(self.workers.pop(0), allow_graceful=False)
        self.workers.append(self._add())

    def stop(self) -> None:
        from ray.serve.context import _get_global_client

        _get_global_client().shutdown(timeout_s=STOP_SECONDS)
        ray.shutdown()
        self.nodes.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)  # Ray's sockets need short paths
        environment = {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response 500",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for name, value in environment.items():
            patch.setenv(name, value)

        cluster = Cluster(folder)
        try:
            cluster.deploy()
            yield cluster
        finally:
            cluster.stop()


def test_nothing_fails_while_replicas_and_checkpoints_change(cluster: Cluster) -> None:
    with Load(cluster.port) as load_:
        wait_for(lambda: load_.count > 500, 60)
        cluster.deploy(SERVICE_MAX_FILES="63")  # another environment: new replicas take over
        cluster.deploy(1, SERVICE_MAX_FILES="63")
        cluster.deploy(2, SERVICE_MAX_FILES="63")
        replacement = cluster.model.with_name("new.pt")
        save(replace(load("models/model_scratch.pt"), metrics={}), replacement)
        replacement.replace(cluster.model)
        wait_for(lambda: len(load_.models) > 1, 30)
        broken = cluster.model.with_name("broken.pt")
        broken.write_bytes(cluster.model.read_bytes()[:1000])
        broken.replace(cluster.model)
        time_of_break = load_.count
        wait_for(lambda: load_.count > time_of_break + 2000, 60)
    assert load_.failures == 0
    assert load_.statuses.keys() == {200}
    shutil.copy("models/model_scratch.pt", replacement)
    replacement.replace(cluster.model)
    print(f"{load_.count:,} requests, 0 failed, slowest {load_.slowest:.2f} s")


@pytest.mark.parametrize("retries", [0, 1])
def test_a_node_is_killed(cluster: Cluster, retries: int) -> None:
    cluster.deploy(2)
    with Load(cluster.port, retries) as load_:
        wait_for(lambda: load_.count > 500, 60)
        cluster.kill_a_node()
        seconds = wait_for(lambda: cluster.replicas() < 2, 60) + wait_for(lambda: cluster.replicas() == 2, 60)
        before = load_.count
        wait_for(lambda: load_.count > before + 500, 60)
    print(f"{load_.count:,} requests, {load_.failures} failed, {seconds:.1f} s until both replicas ran again")
    assert load_.statuses.keys() == {200}
    assert load_.failures <= (0 if retries else CONNECTIONS)
    assert seconds < 60


def test_a_request_costs_at_most_three_times_the_cpu_time_of_uvicorn(cluster: Cluster) -> None:
    cluster.deploy(2)

    def cpu_milliseconds(port: int) -> float:
        with Load(port) as load_:
            wait_for(lambda: load_.count > 200, 60)
            children = set(process_tree(os.getpid())) - {os.getpid()}
            before, count = sum(map(cpu_seconds, children)), load_.count
            wait_for(lambda: load_.count > count + 1000, 60)
            return 1000 * (sum(map(cpu_seconds, children)) - before) / (load_.count - count)

    ratios = []
    with started(SERVICE_ACCESS_LOG="false") as (_, client):
        for _ in range(3):
            by_ray, by_uvicorn = cpu_milliseconds(cluster.port), cpu_milliseconds(client.base_url.port or 80)
            ratios.append(by_ray / by_uvicorn)
            print(f"CPU time of a request: {by_ray:.2f} ms by Ray Serve, {by_uvicorn:.2f} ms by uvicorn")
    assert statistics.median(ratios) <= MAX_CPU_RATIO
