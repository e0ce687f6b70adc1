"""uvicorn's HTTP protocol with deadlines against slow clients (slowloris), limits, and backpressure.

By itself uvicorn limits only the pause between two requests, and does not read the body of a request with `Upgrade`.
The app answers a request that is refused here: see `service.uploads.REFUSAL`.
"""

import asyncio
from enum import Enum
from math import inf
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from service.app import DRAINING
from service.errors import BACKPRESSURE
from service.server.answer_transport import AnswerTransport
from service.server.drain import DRAIN
from service.server.idle import close_longest_idle
from service.server.uvicorn_api import HttpToolsProtocol, last_cycle
from service.settings import Settings
from service.uploads import REFUSAL

MAX_HEAD_BYTES = 64 * 2**10  # 64 KiB: first line and headers of a request together, or the trailers behind its body
MAX_PIPELINED = 8  # requests of a connection that wait for the answer to an earlier one
INVALID = "invalid_http", "The request is not valid HTTP/1.1; send it with an HTTP client, and not with TLS."
NO_PROXY = "invalid_http", "The service is not a proxy: it does not take CONNECT; send pictures with POST to /predict."
HEADERS_TOO_LARGE = "headers_too_large", f"The headers have over {MAX_HEAD_BYTES:,} bytes, the limit; send fewer."
TOO_MANY_REQUESTS = "invalid_http", f"Over {MAX_PIPELINED} requests wait on this connection; read the answers first."
CHECKS = 4  # checks of the deadlines within `request_seconds`
EARLY_SECONDS = 0.05  # a request read so soon after a pause was sent before Retry-After was over
LINGER_SECONDS, LINGER_BYTES = 1.0, 2**20  # what a refused client sends is dropped: closed at once, it sees no answer
LATE_SECONDS = 2.0  # a request under way when the announced idle time ends is still read


class Receiving(Enum):  # the part of a request that a connection receives
    NOTHING, HEAD, BODY = range(3)


class DeadlineProtocol(HttpToolsProtocol):
    """One connection. With over `max_connections` in this process, those are closed that are idle for longest."""

    def __init__(self, *args: Any, settings: Settings, max_connections: float = inf, **options: Any) -> None:
        super().__init__(*args, **options)
        self.request_seconds = settings.request_seconds
        self.min_rate = settings.min_upload_bytes_per_second
        self.max_connections = max_connections
        seconds = settings.keep_alive_seconds
        self.timeout_keep_alive = seconds + LATE_SECONDS  # type: ignore[assignment]
        self.keep_alive_headers = [(b"connection", b"keep-alive"), (b"keep-alive", b"timeout=%d" % seconds)]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.answer_transport = AnswerTransport(transport, self.close)
        self.receiving = Receiving.NOTHING
        self.since = self.loop.time()  # the last request ended, its head began, or `body_bytes` was 0
        self.head_bytes = 0  # of packets since the last request, or since the last byte of the body
        self.body_bytes = 0
        self.refused = False  # nothing is read any more
        self.resumed_at = -inf  # after a pause for backpressure
        self.timer = self.loop.call_later(self.request_seconds / CHECKS, self.check_deadlines)
        if len(self.connections) > self.max_connections:
            close_longest_idle(self.connections - {self})

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.answer_transport.on_close = self.transport.close  # no reference cycle: memory returns at once
        self.cancel_keep_alive_timer()
        super().connection_lost(exc)

    def cancel_keep_alive_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def is_idle(self) -> bool:
        """No request is being answered, and none has arrived further than its head."""
        return self.receiving is not Receiving.BODY and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        self.head_bytes += len(data)
        if self.refused:
            if self.head_bytes > LINGER_BYTES:
                self.transport.close()
            return
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self.refuse(*INVALID)
        else:
            if self.head_bytes > MAX_HEAD_BYTES:
                self.refuse(*HEADERS_TOO_LARGE)

    def ignore_upgrade(self, rest: bytes) -> None:
        """Reads a request as if it had no `Upgrade` header (RFC 9110, section 7.8); `rest` is what follows its head.

        httptools reads no body after such a head, so the body would be read as the next request (request smuggling).
        A new parser gets the head again, without that header, and then the rest.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(*NO_PROXY)
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.head_bytes = 0
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n")
        self.data_received(rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.cancel_keep_alive_timer()
        self.receiving = Receiving.HEAD
        self.since = self.loop.time()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser stops, and `ignore_upgrade` follows
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD_BYTES:
            self.refuse(*HEADERS_TOO_LARGE)
        elif len(self.pipeline) == MAX_PIPELINED:  # one packet holds thousands, and all other clients would wait
            self.pipeline.clear()
            self.refuse(*TOO_MANY_REQUESTS)
        if self.refused:
            raise ValueError  # stops the parser
        super().on_headers_complete()
        self.cycle.transport = self.answer_transport  # type: ignore[assignment]
        extensions: dict[str, dict[str, Any]] = {BACKPRESSURE: {}}
        if self.since - self.resumed_at < EARLY_SECONDS:
            extensions[BACKPRESSURE]["early_retry"] = True
        if DRAIN.active:
            extensions[DRAINING] = {}
            self.cycle.keep_alive = False
        if self.cycle.keep_alive:
            self.cycle.default_headers = [*self.cycle.default_headers, *self.keep_alive_headers]
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]
        self.receiving = Receiving.BODY
        self.since = self.loop.time()
        self.body_bytes = 0
        self.headers = []  # trailers are no headers (RFC 9110, section 6.5.1)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.body_bytes += len(body)
        self.head_bytes = 0  # the app limits the body; trailers may follow it

    def on_message_complete(self) -> None:
        if self.receiving is Receiving.BODY:  # else the request is read again, by `ignore_upgrade`
            super().on_message_complete()
            self.receiving = Receiving.NOTHING
            self.head_bytes = 0
            if self.cycle.response_complete and not self.transport.is_closing():  # it was answered early
                self.since = self.loop.time()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_response_complete(self) -> None:
        self.answer_transport.end()
        super().on_response_complete()
        if self.receiving is Receiving.NOTHING:
            self.since = self.loop.time()
        else:  # the timer begins when this request has arrived and is answered
            self.cancel_keep_alive_timer()
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

    def check_deadlines(self) -> None:
        """Ends the connection if its client has taken too long to send a request or to read an answer."""
        self.timer = self.loop.call_later(self.request_seconds / CHECKS, self.check_deadlines)
        now = self.loop.time()
        seconds = now - self.since
        if self.receiving is Receiving.NOTHING and self.cycle is None and seconds >= self.request_seconds:
            self.transport.close()  # without an answer: a request on its way would take it for its own
        elif self.receiving is Receiving.HEAD and seconds >= self.request_seconds:
            self.refuse(
                "request_timeout",
                f"The headers were not complete within {self.request_seconds:g} s; send them without a pause.",
            )
        elif self.receiving is Receiving.BODY:
            if self.flow.read_paused or self.body_bytes >= self.min_rate * seconds:
                self.since, self.body_bytes = now, 0
            elif seconds >= self.request_seconds:
                self.refuse(
                    "request_timeout",
                    f"The body arrived at {self.body_bytes / seconds:,.0f} bytes/s over {seconds:.1f} s; "
                    f"the minimum is {self.min_rate:,} bytes/s over {self.request_seconds:g} s; "
                    "send a smaller picture.",
                )
        self.answer_transport.check_deadline(now, self.request_seconds)

    def refuse(self, reason: str, detail: str) -> None:
        """The app answers the request that is being received with this error, and the connection is closed.

        The answers to earlier requests come first. A request without a complete head goes to the app as far as known.
        """
        if self.refused or self.transport.is_closing():
            return
        self.refused = True
        refusal: Any = {"reason": reason, "detail": detail}
        if self.receiving is Receiving.BODY:
            extensions: Any = self.scope["extensions"]
            extensions[REFUSAL] = refusal
            self.cycle.keep_alive = self.cycle.more_body = False
            self.cycle.default_headers = self.server_state.default_headers
            self.cycle.message_event.set()
            if self.cycle.response_complete:
                self.close()
            return
        if self.receiving is Receiving.NOTHING:
            super().on_message_begin()
        self.scope |= {"method": "-", "path": self.url.decode("latin-1") or "-", "query_string": b""}
        self.scope["extensions"] = {BACKPRESSURE: {}, REFUSAL: refusal}
        cycle = last_cycle(self)
        if self.cycle is None or self.cycle.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))
        self.cycle = cycle

    def shutdown(self) -> None:
        super().shutdown()
        if self.cycle is not None:
            self.cycle.default_headers = self.server_state.default_headers

    def close(self) -> None:
        """Closes the connection. What its client still sends is dropped for a moment, so that it sees the answer."""
        self.refused = self.refused or self.receiving is Receiving.BODY
        if self.refused and not self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()
