"""The contenders' processes: start on chosen cores, pause and resume, CPU time and memory from /proc, stop."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")  # a second
START_SECONDS = 120.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.01
IDLE_SECONDS, IDLE_CORES = 0.5, 0.1  # a server is idle if it uses less than a tenth of a core for half a second


class StartError(Exception):
    """A contender did not start; the message is one sentence and the end of its log."""


class Server:
    """A running contender and all processes that it started."""

    def __init__(self, process: subprocess.Popen[bytes], start_seconds: float) -> None:
        self.process = process
        self.start_seconds = start_seconds

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Resumes the processes and pauses them afterwards: a server polls while idle, which would disturb others."""
        self.send(signal.SIGCONT)
        try:
            yield
        finally:
            self.send(signal.SIGSTOP)

    def send(self, number: signal.Signals) -> None:
        for pid in process_tree(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait_until_idle(self) -> None:
        """Returns when the processes hardly use the CPU any more, or after START_SECONDS."""
        deadline = time.perf_counter() + START_SECONDS
        idle = False
        while not idle and time.perf_counter() < deadline:
            before = self.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            idle = self.cpu_seconds() - before < IDLE_CORES * IDLE_SECONDS

    def cpu_seconds(self) -> float:
        """CPU time of all processes, ended ones included."""
        return sum(map(cpu_seconds, process_tree(self.process.pid)))

    def resident_bytes(self) -> int:
        """Memory of all processes; shared pages count once."""
        return sum(map(proportional_bytes, process_tree(self.process.pid)))


@contextmanager
def start_server(
    command: Sequence[str],
    environment: Mapping[str, str],
    cores: Sequence[int],
    is_ready: Callable[[], bool],
    folder: Path,
    log: Path,
) -> Iterator[Server]:
    """Starts `command` in `folder` on `cores`, waits until it is ready, and pauses it. Raises StartError."""
    begin = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then stops the contenders
        )
    try:
        while not is_ready():
            if process.poll() is not None or time.perf_counter() - begin > START_SECONDS:
                raise StartError(f"did not start: {log.read_text(errors='replace')[-800:]}")
            time.sleep(POLL_SECONDS)
        server = Server(process, time.perf_counter() - begin)
        server.send(signal.SIGSTOP)
        yield server
    finally:
        stop_process(process)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM, waits up to STOP_SECONDS, then kills what is left of the process and its descendants."""
    start_times = {pid: start_time(pid) for pid in process_tree(process.pid)}
    for pid in start_times:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for pid, started in start_times.items():
        if start_time(pid) == started:  # not a new process with the same id
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def become_subreaper() -> None:
    """Makes orphans of the contenders children of this process (prctl(2)), so that `kill_orphans` finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_orphans() -> None:
    """Kills all remaining children of this process; call it when all contenders have been stopped."""
    for pid in process_tree(os.getpid())[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def process_tree(root: int) -> list[int]:
    """`root` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    pids = [root]
    for pid in pids:  # the list grows during the loop
        pids.extend(children.get(pid, []))
    return pids


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (proc_pid_stat(5)); empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_time(pid: int) -> str:
    return (stat_fields(pid) or [""] * 20)[19]  # starttime


def cpu_seconds(pid: int) -> float:
    """CPU time of the process and of those of its children that it has waited for."""
    return sum(map(int, stat_fields(pid)[11:15])) / CLOCK_TICKS  # utime, stime, cutime, cstime


def resident_bytes(pid: int) -> int:
    """All resident pages, shared ones included."""
    return memory_field(pid, "status", "VmRSS")


def peak_bytes(pid: int) -> int:
    """The maximum of `resident_bytes` since `reset_peak`."""
    return memory_field(pid, "status", "VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc_pid_clear_refs(5)


def proportional_bytes(pid: int) -> int:
    """Resident pages, each divided by the number of processes that share it."""
    return memory_field(pid, "smaps_rollup", "Pss")


def memory_field(pid: int, file: str, key: str) -> int:
    """The field `key` of /proc/PID/`file`, in bytes; 0 if the process has ended or is ending."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kibibytes = next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)
    return kibibytes * 2**10


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
