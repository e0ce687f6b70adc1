"""uvicorn's HTTP protocol with read and write deadlines, against slow clients (slowloris), and with backpressure.

By itself uvicorn limits only the pause between two requests of a connection.
"""

import asyncio
import json
import socket
import struct
from http import HTTPStatus
from math import inf
from typing import Any

from service.app import DRAINING
from service.errors import BACKPRESSURE
from service.middleware import HEADERS
from service.server.drain import DRAIN
from service.server.uvicorn_api import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10  # 64 KiB: first line and headers of a request together, or the trailers behind its body
MAX_PIPELINED = 8  # requests of a connection that wait for the answer to an earlier one
CHECKS = 4  # checks of the deadlines within `request_seconds`
EARLY_SECONDS = 0.05  # a request read so soon after a pause was sent before Retry-After was over
CONTINUE = b"HTTP/1.1 100 "
NO_LINGER = struct.pack("ii", 1, 0)  # on and 0 s (socket(7)): the kernel drops the unsent bytes


class JoinedWrites:
    """The transport as an answer sees it: the head of an answer goes out with the beginning of its body.

    uvicorn sends them with one system call each.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None  # not sent yet; b"": sent

    def write(self, data: bytes) -> None:
        if self._head is None and not data.startswith(CONTINUE):
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    def end(self) -> None:
        """Ends an answer, which may have had no body."""
        if self._head:
            self._transport.write(self._head)
        self._head = None

    def close(self) -> None:
        self.end()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class DeadlineProtocol(HttpToolsProtocol):
    """One connection. `request_seconds` is the time for a request to arrive, and for its answer to be read."""

    def __init__(self, *args: Any, request_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.request_seconds = request_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.joined_writes = JoinedWrites(transport)
        self.reading_since = self.loop.time()  # the rest of a request is awaited; inf: no request is
        self.blocked_since = inf  # the client does not read its answer; inf: it does
        self.resumed_at = -inf  # after a pause for backpressure
        self.head_bytes = 0
        self.timer = self.loop.call_later(self.request_seconds / CHECKS, self.check_deadlines)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.refuse(status, f"The headers have over {MAX_HEAD_BYTES:,} bytes, the limit.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.reading_since = self.loop.time()
        self.head_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = self.joined_writes  # type: ignore[assignment]
        extensions: dict[str, dict[str, Any]] = {BACKPRESSURE: {}}
        if self.reading_since - self.resumed_at < EARLY_SECONDS:
            extensions[BACKPRESSURE]["early_retry"] = True
        if DRAIN.active:
            extensions[DRAINING] = {}
            self.cycle.keep_alive = False
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]
        if len(self.pipeline) > MAX_PIPELINED:  # one packet holds thousands, and all other clients would wait
            raise ValueError(f"over {MAX_PIPELINED} pipelined requests")  # the parser refuses the request

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.head_bytes = 0  # the app limits the body; trailers may follow it

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.reading_since = inf

    def on_response_complete(self) -> None:
        self.joined_writes.end()
        super().on_response_complete()
        backpressure: Any = self.cycle.scope["extensions"][BACKPRESSURE]
        if "pause_seconds" in backpressure and not self.transport.is_closing():
            self.pause(backpressure["pause_seconds"])

    def pause(self, seconds: float) -> None:
        """Backpressure: does not read from a client that was refused for overload until Retry-After is over."""
        self.flow.pause_reading()
        self.loop.call_later(seconds, self.resume)

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.resumed_at = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP.")

    def check_deadlines(self) -> None:
        """Ends the connection if its client has taken too long to send a request or to read an answer."""
        self.timer = self.loop.call_later(self.request_seconds / CHECKS, self.check_deadlines)
        now = self.loop.time()
        idle = self.cycle is None or self.cycle.response_complete
        if self.reading_since == inf and idle and self.timeout_keep_alive_task is None:
            self.reading_since = now  # empty lines came, with which a request may begin
        if now - self.reading_since >= self.request_seconds and not self.transport.is_closing():
            sentence = f"The request was not complete within {self.request_seconds:g} s."
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, sentence)
        if not self.transport.get_write_buffer_size():
            self.blocked_since = inf
        elif self.blocked_since == inf:
            self.blocked_since = now
        elif now - self.blocked_since >= self.request_seconds:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.transport.abort()

    def refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Closes the connection, with an error answer unless another answer is being sent."""
        last = self.cycle
        if last is None or not last.response_started or (last.response_complete and last.scope is not self.scope):
            content = json.dumps({"detail": sentence}).encode()
            headers = b"".join(b"%s: %s\r\n" % header for header in HEADERS)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + headers + head + content)
        self.transport.close()
