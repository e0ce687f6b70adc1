"""HTTP clients of the soak tests: requests in a loop on keep-alive connections, with status and time of each."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_ANSWER_SECONDS = 30.0
FAILED = 0  # the status of a request without a complete answer


@dataclass
class RequestStats:
    """Statuses and times of many requests. Times are in seconds."""

    seconds: dict[int, list[float]] = field(default_factory=dict)  # status -> time of each answer
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, *statuses: int) -> int:
        return sum(len(self.seconds.get(status, ())) for status in statuses)

    def statuses(self) -> dict[int, int]:
        return {status: len(seconds) for status, seconds in sorted(self.seconds.items())}

    def quantile(self, share: float, status: int = 200) -> float:
        """The quantile `share` (0.5: the median) of the times of the answers with `status`; nan if there are none."""
        seconds = sorted(self.seconds.get(status, ()))
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else math.nan

    def slowest(self) -> float:
        return max((max(seconds) for seconds in self.seconds.values()), default=0.0)


@dataclass(frozen=True)
class Reply:
    """An answer; the headers are in lower case."""

    status: int
    head: bytes
    body: bytes


def request(content: bytes, content_type: str = "image/png", path: str = "/predict") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Connection:
    """A keep-alive connection, opened by the first request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, message: bytes) -> Reply:
        """Sends a request and reads its answer. Raises OSError, EOFError or TimeoutError if none is complete."""
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


async def generate_load(
    port: int,
    connections: int,
    next_message: Callable[[], bytes | None],
    stats: RequestStats,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> None:
    """Each connection sends the requests of `next_message`, one after the other, until that gives None."""

    async def send_all() -> None:
        connection = Connection(port)
        while (message := next_message()) is not None:
            begin = time.perf_counter()
            try:
                reply = await connection.send(message)
            except (OSError, EOFError, TimeoutError) as error:
                stats.add(FAILED, time.perf_counter() - begin)
                stats.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                stats.add(reply.status, time.perf_counter() - begin)
                on_reply(reply)
        connection.close()

    await asyncio.gather(*(send_all() for _ in range(connections)))
