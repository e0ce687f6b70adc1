"""What the app needs of its platform: no C library, no /proc, no server."""

import os
import subprocess
import sys

import pytest

from service.metrics import is_running
from tests.service.conftest import SHOE

ROOT = SHOE.parent
WITHOUT_LINUX = """
import ctypes, os, sys

class Windows(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if name is None:
            raise TypeError("expected str, bytes or os.PathLike object, not NoneType")
        super().__init__(name, *arguments, **options)

if sys.argv[1:] == ["Windows"]:
    ctypes.CDLL = Windows

def refuse(event, arguments):
    if event == "ctypes.dlopen" and (arguments[0] is None or "libc." in str(arguments[0])):
        raise OSError("there is no such library")
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(arguments[0])

sys.addaudithook(refuse)
import service.app, service.settings
service.app.create_app(service.settings.Settings())
print(*sys.modules)
"""


@pytest.mark.parametrize("system", ["other", "Windows"])
def test_the_app_imports_without_libc_proc_and_uvicorn(system: str) -> None:
    listing = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX, system], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(listing.stdout.split())
    assert "service.predictions" in loaded
    assert not {
        name for name in loaded if name.partition(".")[0] in ("uvicorn", "hypercorn", "training", "torchvision")
    }
    assert not {name for name in loaded if name.startswith("service.server")}


@pytest.mark.skipif(os.name != "posix", reason="signal 0 is Ctrl-C on Windows")
def test_a_live_worker_is_told_from_a_dead_one_without_proc() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    assert is_running(ended.pid)
    ended.wait()
    assert not is_running(ended.pid)
    assert is_running(os.getpid())
