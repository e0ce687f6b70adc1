"""The page /metrics as a real Prometheus sees it, and the alerts that it is given. `promtool` comes with it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.metrics import Metrics
from tests.service.conftest import DEADLINE_SECONDS, SHOE, free_port, poll, started

DEPLOY = Path(__file__).parents[2] / "deploy/prometheus"
GOOD, BAD = 45, 8  # requests


def test_the_alerts_ask_for_what_the_service_counts() -> None:
    asked = set(re.findall(r"\bfashion_mnist_\w+", (DEPLOY / "alerts.yml").read_text()))
    families = list(Metrics().registry.collect())
    counted = {family.name + "_total" * (family.type == "counter") for family in families}
    counted |= {family.name + "_bucket" for family in families if family.type == "histogram"}
    assert asked
    assert asked <= counted


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees_with(arguments: list[str]) -> None:
    process = subprocess.run(["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus with our own configuration, but that it scrapes `target`, every second."""
    config = (DEPLOY / "prometheus.yml").read_text()
    for ours, its in (("localhost:8000", target), ("15s", "1s"), ("alerts.yml", str(DEPLOY / "alerts.yml"))):
        assert ours in config
        config = config.replace(ours, its)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    arguments = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder / 'prometheus.yml'}", *arguments], stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            for _ in poll(60):
                assert process.poll() is None
                try:
                    if client.get("/-/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    continue
            yield client
    finally:
        process.kill()
        process.wait()


def data(client: httpx.Client, path: str, **parameters: str) -> Any:
    return client.get(f"/api/v1/{path}", params=parameters).raise_for_status().json()["data"]


def value(client: httpx.Client, query: str) -> float:
    """Of a query with one result or none, for which it is 0."""
    return sum(float(each["value"][1]) for each in data(client, "query", query=query)["result"])


@pytest.mark.prometheus
def test_prometheus_reads_the_right_counts_of_two_workers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    flags = ("--model", str(tiny_checkpoint), "--workers", "2")
    with started(*flags, SERVICE_DRAIN_SECONDS="0") as (_, client):
        for content, count in ((SHOE.read_bytes(), GOOD), (b"no picture", BAD)):
            for _ in range(count):  # each on a connection of its own, so that both workers are asked
                client.post("/predict", files={"file": content}, headers={"Connection": "close"})
        with prometheus(client.base_url.netloc.decode(), tmp_path) as asked:
            answered = 'fashion_mnist_requests_total{job="fashion-mnist", route="/predict"}'
            for _ in poll():
                if value(asked, f"sum({answered})") >= GOOD + BAD:
                    break
            counts = {
                each["metric"]["status"]: float(each["value"][1])
                for each in data(asked, "query", query=answered)["result"]
            }
            assert counts == {"200": GOOD, "415": BAD}
            assert value(asked, 'fashion_mnist_request_seconds_count{route="/predict"}') == GOOD + BAD
            assert value(asked, "sum(fashion_mnist_predictions_total)") == GOOD
            assert value(asked, 'fashion_mnist_rejected_total{reason="unsupported_picture"}') == BAD

            [target] = data(asked, "targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            page = asked.get("/metrics").text
            assert set(re.findall(r"^prometheus_target_scrapes_\w+_total (\S+)$", page, re.MULTILINE)) == {"0"}
            for _ in poll():  # for in its first second nothing had been scraped yet
                [group] = data(asked, "rules")["groups"]
                if {(rule["health"], rule["state"]) for rule in group["rules"]} == {("ok", "inactive")}:
                    break
