import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from training.memory import keep_freed

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        [torch.ones(2_000_000) for _ in range(10)]  # 8 MB each, all freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed()
faults(10)
print(faults(20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's ways")
def test_what_a_step_has_freed_costs_the_next_one_no_page_faults() -> None:
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000  # each time 80 MB are 19,532 pages
