"""uvicorn's HTTP protocol, less patient: a request has to arrive in time, and its answer has to be taken.

By itself uvicorn limits only the pause between two requests of a connection.
"""

import asyncio
import json
from http import HTTPStatus
from math import inf

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10  # 64 KiB: of a request's first line and headers together
CHECKS = 4  # in the time that a client has
REQUEST_SECONDS = "request_seconds"  # in the lifespan's state: the time that a client has
TASKS = "tasks"  # in a request's state: the set of all that are being answered


class PunctualProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.seconds: float = self.app_state[REQUEST_SECONDS]
        self.app_state[TASKS] = self.tasks
        self.waiting_since = self.loop.time()  # for the rest of a request; inf: for none
        self.blocked = False  # by a client that does not read
        self.head_bytes = 0
        self.watch = self.loop.call_later(self.seconds / CHECKS, self.check)

    def connection_lost(self, exc: Exception | None) -> None:
        self.watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.refuse(status, f"The headers have over {MAX_HEAD_BYTES:,} bytes, the limit.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.waiting_since = self.loop.time()
        self.head_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.head_bytes = -(2**62)  # what follows is the body, which the app limits

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.waiting_since = inf

    def check(self) -> None:
        """Now and then: ends the connection if its client has taken too long."""
        now = self.loop.time()
        idle = self.cycle is None or self.cycle.response_complete
        if self.waiting_since == inf and idle and self.timeout_keep_alive_task is None:
            self.waiting_since = now  # for a request that has begun with empty lines
        if now - self.waiting_since >= self.seconds:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request was not complete within {self.seconds:g} s.")
            return
        was_blocked, self.blocked = self.blocked, self.transport.get_write_buffer_size() > 0
        if was_blocked and self.blocked:
            self.transport.abort()
            return
        self.watch = self.loop.call_later(self.seconds / CHECKS, self.check)

    def refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Says why, as long as no answer has begun, and ends the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            content = json.dumps({"detail": sentence}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
        self.transport.close()
