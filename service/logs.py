"""Log lines: JSON, one object a line, for machines; plain text for a terminal."""

import json
import logging
import time
from typing import Any

FIELDS = "fields"  # attribute of a log record: the line's fields besides its message


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
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": f"{__name__}.{lines.__name__}"}},
        "handlers": handlers,
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {"service.requests": {"handlers": ["stdout"], "propagate": False}},
    }
