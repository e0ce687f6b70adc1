"""One JSON line a request, or a readable one on a terminal; nothing in it is the user's."""

import json
import logging
import re
import sys
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from service import logs
from service.logs import FIELDS, LIMITED, LINES_PER_SECOND, JsonLines, PlainLines, RateLimit, printable
from tests.service.conftest import SHOE, poll, started

SECRETS = ("holiday", "127.0.0.1", "Mozilla", "swordfish", "localhost")


def record(message: str = "GET / 200", **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "msg": message,
            "name": "service.requests",
            "levelno": 20,
            "levelname": "INFO",
            "created": 0.25,
            "msecs": 250.0,
        }
        | ({FIELDS: fields} if fields else {})
    )


def test_for_machines_a_line_is_one_json_object() -> None:
    assert json.loads(JsonLines().format(record(ms=1.5, id="a-1"))) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "service.requests",
        "message": "GET / 200",
        "ms": 1.5,
        "id": "a-1",
    }
    assert "\n" not in JsonLines().format(record("two\nlines"))


def test_a_traceback_stays_in_its_line() -> None:
    fault = record("It failed.")
    try:
        raise ValueError("why")
    except ValueError:
        fault.exc_info = sys.exc_info()
    line = JsonLines().format(fault)
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: why")
    assert PlainLines().format(fault).endswith("ValueError: why")


def test_for_people_a_line_is_readable() -> None:
    line = PlainLines().format(record(ms=1.5, id="a-1"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO: GET / 200 ms=1\.5 id=a-1", line)
    assert PlainLines().format(record()).endswith("INFO: GET / 200")


@pytest.mark.parametrize(("terminal", "kind"), [(True, "PlainLines"), (False, "JsonLines")])
def test_a_terminal_gets_the_readable_ones(terminal: bool, kind: str) -> None:
    assert logs.config(terminal)["formatters"]["lines"]["()"] == f"service.logs.{kind}"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/fashion/predict", "/fashion/predict"),
        ("/a b 200", "/a%20b%20200"),
        ("/x\r\nGET /y\x1b[31m\x00é\u202e", "/x\\r\\nGET%20/y\\x1b[31m\\x00\\xe9\\u202e"),
        ("/" + "a" * 60_000, "/" + "a" * 79 + "..."),
    ],
)
def test_a_path_that_is_not_there_is_cleaned_and_shortened(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, path: str, shown: str
) -> None:
    with caplog.at_level(logging.INFO, "service.requests"):
        answer = client.post(f"{str(client.base_url).rstrip('/')}{quote(path)}")
        for _ in poll():
            if caplog.records:
                break
    assert answer.status_code == 404
    assert caplog.records[-1].getMessage() == f"POST {shown} 404"
    assert printable(path, 80).replace(" ", "%20") == shown
    page = client.get("/metrics").text
    assert 'route="other",status="404"' in page
    assert "/fashion/predict" not in page


def request_line(status: int, second: float) -> logging.LogRecord:
    made = record()
    made.msg, made.args, made.created = "%s %s %d", ("POST", "/predict", status), second
    return made


def test_refused_requests_cannot_flood_the_log() -> None:
    limit = RateLimit()
    lines = [request_line(415, 100.0 + i / 1000) for i in range(500)]
    assert sum(map(limit.filter, lines)) == LINES_PER_SECOND
    assert all(limit.filter(request_line(200, 100.6)) for _ in range(500))  # what is answered is not limited
    after = request_line(415, 101.2)
    assert limit.filter(after)
    assert getattr(after, FIELDS)["omitted"] == 500 - LINES_PER_SECOND
    again = request_line(415, 101.3)
    assert limit.filter(again)
    assert "omitted" not in getattr(again, FIELDS, {})


def test_warnings_are_limited_too_and_each_logger_by_itself() -> None:
    warning = logging.makeLogRecord({"levelno": logging.WARNING, "created": 5.0, "msg": "Invalid HTTP request"})
    assert sum(RateLimit().filter(warning) for _ in range(3)) == 3
    assert sum(map(RateLimit().filter, [warning] * 100)) == LINES_PER_SECOND
    config = logs.config(terminal=False)
    filters = [config["loggers"][name]["filters"] for name in LIMITED]
    assert filters == [[name] for name in config["filters"]] == [[name] for name in LIMITED]


def test_a_service_without_access_log_is_silent_about_refused_requests(
    tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with started("--model", str(tiny_checkpoint), SERVICE_ACCESS_LOG="false") as (process, client):
        for _ in range(300):
            client.post("/predict", content=b"--x " * 5, headers={"Content-Type": "multipart/form-data; boundary=x"})
        process.terminate()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert len(errors) + len(capfd.readouterr().out) < 5_000


def test_nothing_of_the_user_is_logged(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    headers = {"User-Agent": "Mozilla", "X-Request-ID": "mine-1", "Authorization": "Bearer swordfish"}
    with started("--model", str(tiny_checkpoint), SERVICE_DRAIN_SECONDS="0") as (process, client):
        client.headers = headers
        shoe = SHOE.read_bytes()
        client.post("/predict?holiday=1", files={"file": ("holiday.png", shoe, "image/png")})
        client.post("/predict", files={"file": ("holiday.png", b"holiday", "image/png")})
        client.post("/predict/batch?holiday", files={"file": ("holiday.png", b"holiday")})
        client.get("/fashion/predict?holiday")
        client.get("/health?holiday")
        client.get("/metrics")
        written = ""
        for _ in poll():
            written += capfd.readouterr().out
            if "predict 404" in written:
                break
        assert process.stderr is not None
        process.terminate()
        errors = process.stderr.read()
    assert "SERVICE_API_KEY is not set" in errors
    for secret in SECRETS[:1] + SECRETS[2:]:
        assert secret not in written + errors
    assert SECRETS[1] not in written  # on standard error it is the address that is listened on
    lines = [json.loads(line) for line in written.splitlines() if "/health 503" not in line]  # while it loads
    assert [line["message"] for line in lines] == [
        *(f"POST /predict {status}" for status in (200, 415)),
        "POST /predict/batch 200",
        "GET /fashion/predict 404",
    ]
    for line in lines:
        assert line.keys() == {"time", "level", "logger", "message", "ms", "id"}
        assert line["id"] == "mine-1"
    for line in errors.splitlines():
        assert json.loads(line).keys() == {"time", "level", "logger", "message"}
