"""The contenders' processes: started on chosen cores, paused between turns, measured by /proc, and always ended."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 120.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.01
CALM_SECONDS, CALM_SHARE = 0.5, 0.1  # of a core


class StartError(Exception):
    """A contender did not come up; one sentence and the end of its log."""


class Server:
    """A running contender and all the processes that it started."""

    def __init__(self, process: subprocess.Popen[bytes], start_seconds: float) -> None:
        self.process = process
        self.start_seconds = start_seconds

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Runs it within the block. It is paused otherwise, because polling of idle servers disturbs the others."""
        self.send(signal.SIGCONT)
        try:
            yield
        finally:
            self.send(signal.SIGSTOP)

    def send(self, number: signal.Signals) -> None:
        for pid in tree(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def calm_down(self) -> None:
        """Waits until it hardly uses the CPU any more, START_SECONDS at most."""
        deadline = time.perf_counter() + START_SECONDS
        calm = False
        while not calm and time.perf_counter() < deadline:
            before = self.cpu_seconds()
            time.sleep(CALM_SECONDS)  # over which its use of the CPU is measured
            calm = self.cpu_seconds() - before < CALM_SHARE * CALM_SECONDS

    def cpu_seconds(self) -> float:
        """Of all its processes so far, those that ended included."""
        return sum(map(cpu_seconds, tree(self.process.pid)))

    def resident_bytes(self) -> int:
        """Of all its processes, pages that they share counted once."""
        return sum(map(proportional_bytes, tree(self.process.pid)))


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    cores: Sequence[int],
    is_ready: Callable[[], bool],
    folder: Path,
    log: Path,
) -> Iterator[Server]:
    """The `command` on `cores`, once it is ready; paused. Raises StartError."""
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours: we end it in order
        )
    try:
        while not is_ready():
            if process.poll() is not None or time.perf_counter() - begin > START_SECONDS:
                raise StartError(f"did not come up: {log.read_text(errors='replace')[-800:]}")
            time.sleep(POLL_SECONDS)  # there is no event when it listens
        server = Server(process, time.perf_counter() - begin)
        server.send(signal.SIGSTOP)
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, then kills the process and its descendants."""
    members = {pid: birth(pid) for pid in tree(process.pid)}
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for pid, born in members.items():
        if birth(pid) == born:  # not a new process with the same id
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def adopt_orphans() -> None:
    """Makes orphans of contenders children of this process, so that `end_orphans` finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans() -> None:
    """Kills the remaining children of this process, once all contenders have ended."""
    for pid in tree(os.getpid())[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def tree(root: int) -> list[int]:
    """`root` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is read
        found.extend(children.get(pid, []))
    return found


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc_pid_stat(5)); none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def birth(pid: int) -> str:
    return (stat(pid) or [""] * 20)[19]  # starttime


def cpu_seconds(pid: int) -> float:
    """Of the process and of those of its children that it has waited for."""
    return sum(map(int, stat(pid)[11:15])) / TICKS  # utime, stime, cutime, cstime


def resident_bytes(pid: int) -> int:
    """All resident pages, shared ones included."""
    return kilobytes(pid, "status", "VmRSS") * 2**10


def peak_bytes(pid: int) -> int:
    """The most that `resident_bytes` ever was since `forget_peak`."""
    return kilobytes(pid, "status", "VmHWM") * 2**10


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)


def proportional_bytes(pid: int) -> int:
    """Resident pages, each divided by the number of processes that share it."""
    return kilobytes(pid, "smaps_rollup", "Pss") * 2**10


def kilobytes(pid: int, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended, or is about to
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)
