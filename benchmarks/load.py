"""The load: wrk, posting one payload over and over and checking every answer."""

import json
import math
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

SCRIPT = Path(__file__).with_name("post.lua")
PNG = "image/png"


class LoadError(Exception):
    """A contender's answers were wrong or missing; one sentence.

    LoadError
      x NoAnswer   it was too slow for a single answer in the time it had, which is not wrong
    """


class NoAnswer(LoadError):
    pass


@dataclass(frozen=True)
class Payload:
    """A request's body."""

    content: bytes
    content_type: str


@dataclass(frozen=True)
class Load:
    """What came of one run of wrk."""

    per_second: float  # right answers
    p50_ms: float
    p99_ms: float
    requests: int
    generator_cores: float  # how busy wrk itself was; near 1 it would measure itself
    cpu_ms: float = math.nan  # a request, of all the contender's processes


def form(*pictures: bytes, content_type: str = PNG) -> Payload:
    """A multipart form with each picture as a field `file`."""
    files = [("file", (f"{number}.png", picture, content_type)) for number, picture in enumerate(pictures)]
    request = httpx.Request("POST", "http://benchmark", files=files)
    return Payload(request.read(), request.headers["content-type"])


def press(
    url: str,
    payload: Payload,
    expected: str,
    connections: int,
    seconds: float,
    cores: Sequence[int],
    shared: bool = False,
) -> Load:
    """Presses `url` for `seconds` from `cores`. Raises LoadError unless every answer holds the `expected` text.

    The seconds are rounded: wrk takes whole ones. Where it has to share the contender's cores it has a thread on each,
    so that all workers come to connections alike, and interrupts none of them (SCHED_BATCH of sched(7)).
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(payload.content)
        file.flush()
        command = ["taskset", "-c", ",".join(map(str, cores)), *(["chrt", "--batch", "0"] if shared else [])]
        command += ["wrk", f"-t{len(cores) if shared else 1}", f"-c{connections}", f"-d{seconds:.0f}"]
        command += ["--timeout", "30", "-s", str(SCRIPT), url, "--", file.name, payload.content_type, expected]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wrk = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if wrk.returncode:
        raise LoadError(f"wrk failed: {(wrk.stderr or wrk.stdout).strip()[-200:]}")
    found = json.loads(wrk.stdout.splitlines()[-1])
    if not found["right"] + found["wrong"]:
        raise NoAnswer(f"no answer within {seconds:.0f} s at {connections} connections")
    if found["wrong"] or found["errors"]:
        raise LoadError(
            f"{found['wrong']:,} of {found['right'] + found['wrong']:,} answers wrong, {found['errors']:,} missing "
            f"at {connections} connections"
        )
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(
        per_second=found["right"] / found["seconds"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        requests=found["right"],
        generator_cores=cpu_seconds / found["seconds"],
    )
