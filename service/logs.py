"""Log lines: JSON, one object a line, for machines; plain text for a terminal."""

import json
import logging
import time
from typing import Any

FIELDS = "fields"  # attribute of a log record: the line's fields besides its message
LINES_PER_SECOND = 20  # of refused requests and of warnings, for each logger; no client can flood the log
LIMITED = ("service.requests", "service.errors", "uvicorn.error", "asyncio")  # loggers of what a client can cause


def printable(text: str, characters: int = 80) -> str:
    """`text` for a line or a sentence: ASCII on one line, the rest escaped, shortened to this many characters."""
    shown = ascii(text[:characters])[1:-1]
    return shown if len(shown) <= characters and len(text) <= characters else f"{shown[:characters]}..."


class RateLimit(logging.Filter):
    """Lets at most LINES_PER_SECOND lines about refused requests, warnings and errors through; counts those it omits.

    The next line that passes has their number in its field "omitted". Other lines always pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._second = 0.0
        self._lines = self._omitted = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not (record.levelno >= logging.WARNING or is_refusal(record)):
            return True
        if record.created - self._second >= 1 or record.created < self._second:
            self._second, self._lines = record.created, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._omitted += 1
            return False
        if self._omitted:
            setattr(record, FIELDS, {**getattr(record, FIELDS, {}), "omitted": self._omitted})
            self._omitted = 0
        return True


def is_refusal(record: logging.LogRecord) -> bool:
    """Whether the line is that of a request, "POST /predict 415", and its status is an error."""
    status = record.args[-1] if isinstance(record.args, tuple) and record.args else None
    return record.name == "service.requests" and isinstance(status, int) and status >= 400


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class PlainLines(logging.Formatter):
    """12:34:56 info: message key=value …"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, FIELDS, {})
        return " ".join((super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())))


def config(terminal: bool) -> dict[str, Any]:
    """For logging.config.dictConfig: requests on standard output, all else on standard error."""
    lines = PlainLines if terminal else JsonLines
    handlers = {
        name: {"class": "logging.StreamHandler", "stream": f"ext://sys.{name}", "formatter": "lines"}
        for name in ("stdout", "stderr")
    }
    loggers: dict[str, dict[str, Any]] = {name: {"filters": [name]} for name in LIMITED}
    loggers["service.requests"] |= {"handlers": ["stdout"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {name: {"()": f"{__name__}.{RateLimit.__name__}"} for name in LIMITED},
        "formatters": {"lines": {"()": f"{__name__}.{lines.__name__}"}},
        "handlers": handlers,
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": loggers,
    }
