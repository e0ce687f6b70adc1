import subprocess
import sys

import pytest

TRIM = """
import ctypes, threading
{patch}
from service.server.memory import start_trimming
start_trimming()
print([thread.name for thread in threading.enumerate()])
"""


@pytest.mark.parametrize(
    "patch",
    [
        "def refuse(name): raise OSError(name)\nctypes.CDLL = refuse",
        "ctypes.CDLL = lambda name: object()",
        "def refuse(name): raise TypeError(name)\nctypes.CDLL = refuse",
    ],
    ids=["no library", "another library", "Windows"],
)
def test_without_glibc_nothing_is_trimmed(patch: str) -> None:
    program = TRIM.format(patch=patch)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "['MainThread']\n"
