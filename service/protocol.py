"""uvicorn's HTTP protocol, less patient: a request has to arrive in time, and its answer has to be taken.

By itself uvicorn limits only the pause between two requests of a connection. It also sends an answer in two pieces.
"""

import asyncio
import json
import socket
import struct
import time
from http import HTTPStatus
from math import inf

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.middleware import HEADERS

MAX_HEAD_BYTES = 64 * 2**10  # 64 KiB: of a request's first line and headers together, and of what follows its body
MAX_AHEAD = 8  # requests of a connection that wait for the answer to another of its own
CHECKS = 4  # in the time that a client has
REQUEST_SECONDS = "request_seconds"  # in the lifespan's state: the time that a client has
CONTINUE = b"HTTP/1.1 100 "
OVERLOADED = "overloaded"  # in a request's state: it was refused for that
HASTY = "hasty"  # in a request's state: it came before Retry-After was over
RETRY_AFTER_SECONDS = 1
HASTY_A_SECOND = 1000  # such requests that are read, in all; what each costs delays the others
AWAKE_SECONDS = 1e-4  # after an answer that was the only one: a client close by asks again sooner
TASKS = "tasks"  # in a request's state: the set of all that are being answered
NO_LINGER = struct.pack("ii", 1, 0)  # on and 0 s (socket(7)): the kernel, too, forgets what is left to send


class Joined:
    """A connection as its requests see it: the head of an answer goes out with the beginning of its body.

    So ASGI wants it, and each system call to send takes as long as a small network.
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

    def finish(self) -> None:
        """Ends an answer, which may have had no body."""
        if self._head:
            self._transport.write(self._head)
        self._head = None

    def close(self) -> None:
        self.finish()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class PunctualProtocol(HttpToolsProtocol):
    """One connection."""

    next_hasty = 0.0  # of all connections: when the next that was refused is read again
    awake_until = 0.0  # of all connections, by time.monotonic

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.joined = Joined(transport)
        self.seconds: float = self.app_state[REQUEST_SECONDS]
        self.app_state[TASKS] = self.tasks
        self.waiting_since = self.loop.time()  # for the rest of a request; inf: for none
        self.blocked_since = inf  # by a client that does not read
        self.refused_until = 0.0  # as Retry-After says
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
        PunctualProtocol.awake_until = 0.0  # here it is

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.cycle.transport = self.joined  # type: ignore[assignment]
        if self.waiting_since < self.refused_until:
            self.scope["state"][HASTY] = True
        if len(self.pipeline) > MAX_AHEAD:  # thousands fit in what is read at once, and all others would wait for them
            raise ValueError(f"over {MAX_AHEAD} requests ahead of their answers")  # to the parser, a wrong request

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.head_bytes = 0  # the app limits the body; what may follow are headers again

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.waiting_since = inf

    def on_response_complete(self) -> None:
        self.joined.finish()
        super().on_response_complete()
        if len(self.tasks) == 1:
            now = time.monotonic()
            if PunctualProtocol.awake_until < now:
                self.loop.call_soon(self.stay_awake)
            PunctualProtocol.awake_until = now + AWAKE_SECONDS
        if OVERLOADED not in self.cycle.scope["state"]:
            self.refused_until = 0.0
        elif not self.transport.is_closing():
            self.rest()

    def stay_awake(self) -> None:
        """Looks for the next request again and again: waking a core up takes longer than a small network."""
        if time.monotonic() < self.awake_until:
            self.loop.call_soon(self.stay_awake)

    def rest(self) -> None:
        """Leaves a client unread that was refused, until Retry-After is over, or until it is its turn to be hasty."""
        now = self.loop.time()
        self.refused_until = now + RETRY_AFTER_SECONDS
        PunctualProtocol.next_hasty = max(self.next_hasty, now) + 1 / HASTY_A_SECOND
        self.flow.pause_reading()
        self.loop.call_at(min(self.next_hasty, self.refused_until), self.read_on)

    def read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST, "This is no HTTP request.")

    def check(self) -> None:
        """Now and then: ends the connection if its client has taken too long."""
        self.watch = self.loop.call_later(self.seconds / CHECKS, self.check)
        now = self.loop.time()
        idle = self.cycle is None or self.cycle.response_complete
        if self.waiting_since == inf and idle and self.timeout_keep_alive_task is None:
            self.waiting_since = now  # for a request that has begun with empty lines
        if now - self.waiting_since >= self.seconds and not self.transport.is_closing():
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request was not complete within {self.seconds:g} s.")
        if not self.transport.get_write_buffer_size():
            self.blocked_since = inf
        elif self.blocked_since == inf:
            self.blocked_since = now
        elif now - self.blocked_since >= self.seconds:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.transport.abort()

    def refuse(self, status: HTTPStatus, sentence: str) -> None:
        """Says why, unless this request has its answer or another's is under way, and ends the connection."""
        last = self.cycle
        if last is None or not last.response_started or (last.response_complete and last.scope is not self.scope):
            content = json.dumps({"detail": sentence}).encode()
            more = b"".join(b"%s: %s\r\n" % header for header in HEADERS)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + more + head + content)
        self.transport.close()
