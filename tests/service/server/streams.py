"""Byte streams of requests, and the answers that a protocol gives to them."""

import asyncio
import hashlib
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.server.uvicorn_api import HttpToolsProtocol
from service.uploads import REFUSAL

TURNS = 60  # of the event loop, after which every complete request is answered

Answers = list[tuple[int, bytes]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers with what it was asked, or 400 where the server refuses."""
    digest = hashlib.sha256()
    more = REFUSAL not in scope.get("extensions", {})
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        digest.update(message.get("body", b""))
        more = message.get("more_body", False)
    status = 400 if REFUSAL in scope.get("extensions", {}) else 200
    text = f"{scope['method']} {scope['path']} {digest.hexdigest()}"
    await PlainTextResponse(text, status)(scope, receive, send)


@dataclass(frozen=True)
class Request:
    """One request in a stream; `upgrade` holds its `Upgrade` lines."""

    line: bytes
    headers: tuple[bytes, ...]
    upgrade: tuple[bytes, ...]
    body: bytes

    @property
    def is_last(self) -> bool:
        """The connection is closed after its answer, and what follows it is not read."""
        return self.line.endswith(b"HTTP/1.0") or any(b"close" in header for header in self.headers)

    def render(self, upgrade: bool) -> bytes:
        lines = (self.line, b"Host: x", *(self.upgrade if upgrade else ()), *self.headers)
        return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + self.body


def chunked(body: bytes, size: int, trailer: bytes) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailer + b"\r\n"


async def answers_of(kind: type[HttpToolsProtocol], packets: list[bytes], **options: Any) -> Answers:
    """The answers to these packets on one connection, over a real socket pair."""
    config = uvicorn.Config(echo, log_level="critical")
    config.load()
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    server = uvicorn.Server(config)
    transport, protocol = await loop.connect_accepted_socket(
        lambda: kind(config, server.server_state, {}, **options), near
    )
    for packet in packets:
        if transport.is_closing():
            break
        protocol.data_received(packet)
        await asyncio.sleep(0)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    far.setblocking(False)
    received = b""
    try:
        while piece := far.recv(2**20):
            received += piece
    except BlockingIOError:
        pass
    transport.abort()
    far.close()
    await asyncio.sleep(0)
    return parse(received)


def parse(received: bytes) -> Answers:
    """(status, body) of every answer; the body only where the app answered."""
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if received.startswith(b"HTTP/1.1"):  # the answer to HEAD has no body
            length = 0
        answers.append((status, received[:length] if status == 200 else b""))
        received = received[length:]
    return answers
