"""Idle connections, when the limit of open files is near."""

from typing import Any


def close_longest_idle(connections: set[Any]) -> None:
    """Closes the sixteenth of these connections that was idle for longest, of those that are idle."""
    idle = sorted((each for each in connections if each.is_idle()), key=lambda connection: connection.since)
    for connection in idle[: len(idle) // 16 + 1]:
        connection.transport.close()
