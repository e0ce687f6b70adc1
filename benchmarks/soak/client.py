"""Clients that ask over and over, each on its own connection, and note how each request went."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_ANSWER_SECONDS = 30.0
FAILED = 0  # as a status: no answer, or only part of one


@dataclass
class Tally:
    """What came of many requests. Times are in seconds."""

    seconds: dict[int, list[float]] = field(default_factory=dict)  # of each answer, by its status
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, *statuses: int) -> int:
        return sum(len(self.seconds.get(status, ())) for status in statuses)

    def statuses(self) -> dict[int, int]:
        return {status: len(seconds) for status, seconds in sorted(self.seconds.items())}

    def percentile(self, share: float, status: int = 200) -> float:
        """Of the answers with this status, the time within which `share` of them came; nan if there are none."""
        seconds = sorted(self.seconds.get(status, ()))
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else math.nan

    def slowest(self) -> float:
        return max((max(seconds) for seconds in self.seconds.values()), default=0.0)


@dataclass(frozen=True)
class Reply:
    """An answer, as far as the scripts look into it."""

    status: int
    head: bytes
    body: bytes


def request(content: bytes, content_type: str = "image/png", path: str = "/predict") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Connection:
    """One keep-alive connection, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: bytes) -> Reply:
        """Raises OSError, EOFError or TimeoutError where there is no whole answer."""
        try:
            async with asyncio.timeout(MAX_ANSWER_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self.port)
                reader, writer = self._streams
                writer.write(message)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                reply = Reply(int(head[9:12]), head, await reader.readexactly(length))
        except BaseException:
            self.close()
            raise
        if b"connection: close" in reply.head:
            self.close()
        return reply

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


async def press(
    port: int,
    connections: int,
    next_message: Callable[[], bytes | None],
    tally: Tally,
    look: Callable[[Reply], None] = lambda reply: None,
) -> None:
    """Each connection sends what `next_message` gives until it gives None, one request after the other."""

    async def ask() -> None:
        connection = Connection(port)
        while (message := next_message()) is not None:
            begin = time.perf_counter()
            try:
                reply = await connection.ask(message)
            except (OSError, EOFError, TimeoutError) as error:
                tally.add(FAILED, time.perf_counter() - begin)
                tally.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                tally.add(reply.status, time.perf_counter() - begin)
                look(reply)
        connection.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
