"""One JSON line a request, or a readable one on a terminal; nothing in it is the user's."""

import json
import logging
import re
import sys
from pathlib import Path

import pytest

from service import logs
from service.logs import FIELDS, JsonLines, PlainLines
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


def test_nothing_of_the_user_is_logged(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    headers = {"User-Agent": "Mozilla", "X-Request-ID": "mine-1", "Authorization": "Bearer swordfish"}
    with started("--model", str(tiny_checkpoint), SERVICE_DRAIN_SECONDS="0") as (process, client):
        client.headers = headers
        shoe = SHOE.read_bytes()
        client.post("/predict?holiday=1", files={"file": ("holiday.png", shoe, "image/png")})
        client.post("/predict", files={"file": ("holiday.png", b"holiday", "image/png")})
        client.post("/predict/batch?holiday", files={"file": ("holiday.png", b"holiday")})
        client.get("/holiday/../holiday.png")
        client.get("/health?holiday")
        client.get("/metrics")
        written = ""
        for _ in poll():
            written += capfd.readouterr().out
            if "other 404" in written:
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
        "GET other 404",
    ]
    for line in lines:
        assert line.keys() == {"time", "level", "logger", "message", "ms", "id"}
        assert line["id"] == "mine-1"
    for line in errors.splitlines():
        assert json.loads(line).keys() == {"time", "level", "logger", "message"}
