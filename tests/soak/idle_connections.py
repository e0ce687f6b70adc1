"""10,000 connections that never ask: `python -m tests.soak.idle_connections`."""

import json
import resource
import socket
import sys
import time

import httpx

from tests.soak.load import PORT, SHOE, URL, memory, pressed, service, upload

CONNECTIONS, SOURCES = 10_000, 20  # addresses, 127.0.0.1 and up: one has about 28,000 ports
REQUEST_SECONDS = 10
GRACE_SECONDS = 10


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))  # and so of the service
    with service(SERVICE_REQUEST_SECONDS=str(REQUEST_SECONDS)) as server:
        pressed(lambda: upload(SHOE), 32, 3)
        before = memory(server)
        begin = time.monotonic()
        connections = [
            socket.create_connection(("127.0.0.1", PORT), 5, (f"127.0.0.{2 + index % SOURCES}", 0))
            for index in range(CONNECTIONS)
        ]
        opened = time.monotonic() - begin
        during = memory(server)
        asked = time.monotonic()
        answers = [httpx.post(f"{URL}/predict", files={"file": SHOE}).status_code for _ in range(20)]
        took = (time.monotonic() - asked) / len(answers)
        ended = 0
        for connection in connections:
            connection.settimeout(max(0.01, begin + opened + REQUEST_SECONDS + GRACE_SECONDS - time.monotonic()))
            with connection:
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
                except TimeoutError:
                    continue
                ended += 1
        lasted = time.monotonic() - begin
        pressed(lambda: upload(SHOE), 32, 3)
        after = memory(server)
    found = {
        "opened_seconds": opened,
        "answers_meanwhile": answers.count(200),
        "seconds_an_answer": took,
        "ended": ended,
        "after_seconds": lasted,
        "mib_before": before,
        "mib_during": during,
        "mib_after": after,
    }
    held = ended == CONNECTIONS and set(answers) == {200} and took < 0.5 and after < 1.15 * before
    print(
        f"{CONNECTIONS:,} connections opened in {opened:.1f} s; meanwhile an answer took {1e3 * took:.0f} ms. "
        f"{ended:,} were ended by the service, the last {lasted:.1f} s after the first began. "
        f"Memory {before:.0f} MiB before, {during:.0f} with all, {after:.0f} after."
    )
    print(json.dumps({"idle_connections": found, "held": held}))
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
