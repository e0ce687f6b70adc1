"""The exact values of /metrics, with one worker and with two."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.service.conftest import SHOE, poll, serving, started, workers_of

PICTURE = SHOE.read_bytes()
Counts = dict[str, float]


def counts(client: httpx.Client) -> Counts:
    """Every number of the page, by its name and its labels in the order of their names."""
    page = client.get("/metrics")
    assert page.headers["Content-Type"].startswith("text/plain")
    return {
        " ".join((sample.name, *(value for _, value in sorted(sample.labels.items())))): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


@pytest.fixture
def fresh(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield client


def test_every_request_and_picture_is_counted_once(fresh: httpx.Client) -> None:
    loading = {name: value for name, value in counts(fresh).items() if name == "fashion_mnist_rejected_total not_ready"}
    answers = [fresh.post("/predict", files={"file": PICTURE}).json() for _ in range(50)]
    for content in (b"", b"text", bytes(300_000)):
        fresh.post("/predict", files={"file": content})
    fresh.post("/predict")
    fresh.post("/predict/batch", files=[("file", PICTURE)] * 3 + [("file", b"text")])
    fresh.get("/nothing")
    fresh.get("/nothing/else")
    got = counts(fresh)
    assert {key: value for key, value in got.items() if key.startswith("fashion_mnist_requests_total /predict")} == {
        "fashion_mnist_requests_total /predict 200": 50,
        "fashion_mnist_requests_total /predict 400": 1,
        "fashion_mnist_requests_total /predict 413": 1,
        "fashion_mnist_requests_total /predict 415": 1,
        "fashion_mnist_requests_total /predict 422": 1,
        "fashion_mnist_requests_total /predict/batch 200": 1,
    }
    assert got["fashion_mnist_requests_total other 404"] == 2
    assert (
        got["fashion_mnist_request_seconds_count /predict"]
        == got["fashion_mnist_request_seconds_bucket +Inf /predict"]
        == 54
    )
    assert {key: value for key, value in got.items() if key.startswith("fashion_mnist_rejected_total")} == {
        **loading,
        "fashion_mnist_rejected_total broken_picture": 1,
        "fashion_mnist_rejected_total missing_file": 1,
        "fashion_mnist_rejected_total unsupported_picture": 2,
        "fashion_mnist_rejected_total upload_too_large": 1,
    }
    for name in ("queue", "decode"):
        assert got[f"fashion_mnist_{name}_seconds_count"] == got[f"fashion_mnist_{name}_seconds_bucket +Inf"] == 53
        assert got[f"fashion_mnist_{name}_seconds_sum"] >= 0
    assert got["fashion_mnist_batch_pictures_sum"] == 53
    assert got["fashion_mnist_inference_seconds_count"] == got["fashion_mnist_batch_pictures_count"] >= 51
    assert got[f"fashion_mnist_predictions_total {answers[0]['class']}"] == 53
    assert sum(value for key, value in got.items() if key.startswith("fashion_mnist_predictions_total")) == 53
    assert got["fashion_mnist_confidence_total"] == pytest.approx(53 * answers[0]["confidence"], abs=1e-3)
    assert got["fashion_mnist_in_flight"] == 0
    assert got["fashion_mnist_model_refusals_total"] == 0
    assert got[f"fashion_mnist_model {answers[0]['model']}"] == 1
    assert 0 < got["fashion_mnist_model_load_seconds"] < 60
    assert got["fashion_mnist_model_loaded_timestamp_seconds"] > 1.7e9


def test_the_page_itself_is_counted_the_next_time(fresh: httpx.Client) -> None:
    for i in range(3):
        assert counts(fresh).get("fashion_mnist_requests_total /metrics 200", 0) == i


PLAIN, OPENMETRICS = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0"
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        *(
            ("", PLAIN),
            ("*/*", PLAIN),
            ("text/html", PLAIN),
            ("text/plain", PLAIN),
            ("text/plain;version=0.0.4", PLAIN),
        ),
        *((OPENMETRICS, OPENMETRICS), (PROMETHEUS, OPENMETRICS), ("application/openmetrics-text", OPENMETRICS)),
        *(("text/plain;version=x", PLAIN), (";;,;=", PLAIN), ("application/openmetrics-text;version=é", OPENMETRICS)),
        *(("application/openmetrics-text;q=0.1, text/plain;version=0.0.4", PLAIN), (OPENMETRICS + ";q=0", PLAIN)),
        ("application/openmetrics-text;q=.,text/plain;q=1.1.1", PLAIN),
    ],
)
def test_the_format_goes_by_accept(client: httpx.Client, accept: str, expected: str) -> None:
    page = client.get("/metrics", headers=httpx.Headers({"Accept": accept}, "utf-8"))
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith(expected)
    parse = openmetrics_families if expected == OPENMETRICS else text_string_to_metric_families
    names = {sample.name for family in parse(page.text) for sample in family.samples}
    assert page.text.endswith("# EOF\n") == (expected == OPENMETRICS)
    assert {"fashion_mnist_requests_total", "process_resident_memory_bytes", "process_cpu_seconds_total"} <= names
    assert not any(name.endswith("_created") for name in names)


def test_the_metrics_of_the_process_are_its_own(client: httpx.Client) -> None:
    got = counts(client)
    own_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert got["process_resident_memory_bytes"] == pytest.approx(own_bytes, rel=0.2)
    assert got["process_open_fds"] > 3


def test_a_refused_checkpoint_is_counted(tmp_path: Path) -> None:
    with serving(Settings(model=tmp_path / "gone.pt")) as client:
        client.post("/predict", files={"file": PICTURE})
        got = counts(client)
    assert got["fashion_mnist_model_refusals_total"] == 1
    assert got["fashion_mnist_rejected_total not_ready"] == 1 + got["fashion_mnist_requests_total /health 503"]
    assert got["fashion_mnist_requests_total /predict 503"] == 1


def test_unauthorized_requests_are_counted(settings: Settings) -> None:
    locked = Settings(**settings.model_dump() | {"api_key": "swordfish"})
    with serving(locked) as client:
        client.post("/predict")
        client.headers["Authorization"] = "Bearer swordfish"
        got = counts(client)
    assert got["fashion_mnist_rejected_total unauthorized"] == got["fashion_mnist_requests_total /predict 401"] == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_each_worker_reports_the_sum_and_keeps_the_counts_of_a_killed_one(tiny_checkpoint: Path) -> None:
    asked = 75

    def until_all_is_counted() -> None:
        """Polls one worker, by one connection; the other worker gets no request meanwhile."""
        for _ in range(8):
            with httpx.Client(base_url=base_url, timeout=20) as client:
                for _ in poll(60):
                    with suppress(httpx.TransportError):
                        if counts(client).get("fashion_mnist_requests_total /predict 200") == asked:
                            break

    with started("--model", str(tiny_checkpoint), "--workers", "2", SERVICE_DRAIN_SECONDS="0") as (process, client):
        base_url = client.base_url
        for _ in poll(60):
            if len(workers_of(process)) == 2:
                break
        for _ in range(asked):
            with httpx.Client(base_url=base_url, timeout=20) as each:
                assert each.post("/predict", files={"file": PICTURE}).status_code == 200
        until_all_is_counted()
        before = workers_of(process)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        for _ in poll(60):
            if len(workers_of(process) - before) == 2:
                break
        until_all_is_counted()
        with httpx.Client(base_url=base_url, timeout=20) as other:
            got = counts(other)
    assert sum(value for key, value in got.items() if key.startswith("fashion_mnist_predictions_total")) == asked
    assert not [name for name in got if name.startswith("process_")]  # they would be those of one worker
