"""The transport of a connection, as uvicorn's answers see it."""

import asyncio
import socket
import struct
from collections.abc import Callable
from math import inf

NO_LINGER = struct.pack("ii", 1, 0)  # on and 0 s (socket(7)): the kernel drops the unsent bytes
CONTINUE = b"HTTP/1.1 100 "


class AnswerTransport:
    """The transport as an answer sees it: the head of an answer goes out with the beginning of its body.

    uvicorn sends them with one system call each: a tenth of the CPU time of a request to the tutorial's Net.
    """

    def __init__(self, transport: asyncio.Transport, on_close: Callable[[], None]) -> None:
        """`on_close` is called when the answer is the connection's last."""
        self._transport = transport
        self.on_close = on_close
        self._blocked_since = inf  # the client does not read its answer; inf: it does
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
        self.on_close()

    def check_deadline(self, now: float, seconds: float) -> None:
        """Ends the connection if its client has not read an answer for so long. `now` is of the event loop."""
        if not self._transport.get_write_buffer_size():
            self._blocked_since = inf
        elif self._blocked_since == inf:
            self._blocked_since = now
        elif now - self._blocked_since >= seconds:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
