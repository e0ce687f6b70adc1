"""The load generator: wrk posts one payload over and over and checks every answer."""

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
    """Some answers of a contender were wrong or missing; the message is one sentence.

    LoadError
      x NoAnswer   no answer came in the measured time; the contender is too slow, but not wrong
    """


class NoAnswer(LoadError):
    pass


@dataclass(frozen=True)
class Payload:
    """The body of a request and its Content-Type."""

    content: bytes
    content_type: str


@dataclass(frozen=True)
class LoadResult:
    """The result of one run of wrk."""

    per_second: float  # correct answers
    p50_ms: float
    p99_ms: float
    requests: int
    generator_cores: float  # cores that wrk used; near 1, wrk itself is the limit
    cpu_ms: float = math.nan  # CPU time of all the contender's processes, for each request


def multipart_form(*pictures: bytes, content_type: str = PNG) -> Payload:
    """A multipart form with each picture as a field `file`."""
    files = [("file", (f"{number}.png", picture, content_type)) for number, picture in enumerate(pictures)]
    request = httpx.Request("POST", "http://benchmark", files=files)
    return Payload(request.read(), request.headers["content-type"])


def generate_load(
    url: str,
    payload: Payload,
    expected: str,
    connections: int,
    seconds: float,
    cores: Sequence[int],
    shared: bool = False,
) -> LoadResult:
    """Runs wrk against `url` on `cores`. `seconds` is rounded, because wrk takes whole seconds.

    With `shared` cores, which the contender uses too, wrk has a thread on each core, so that all workers get as many
    connections; and the scheduling policy SCHED_BATCH of sched(7), so that it interrupts no worker.

    Raises LoadError unless every answer contains the text `expected`.
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
    printed = json.loads(wrk.stdout.splitlines()[-1])
    answers = printed["correct"] + printed["wrong"]
    if not answers:
        raise NoAnswer(f"no answer within {seconds:.0f} s at {connections} connections")
    if printed["wrong"] or printed["errors"]:
        raise LoadError(
            f"{printed['wrong']:,} of {answers:,} answers wrong, {printed['errors']:,} missing "
            f"at {connections} connections"
        )
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return LoadResult(
        per_second=printed["correct"] / printed["seconds"],
        p50_ms=printed["p50_ms"],
        p99_ms=printed["p99_ms"],
        requests=printed["correct"],
        generator_cores=cpu_seconds / printed["seconds"],
    )
