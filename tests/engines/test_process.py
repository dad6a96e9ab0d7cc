"""Freed memory that a process keeps, and gives back when asked."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# A process of its own: what it does to the heap holds for all that it runs.
MEASURE = """
import os, resource, torch
from evomerge.engines._process import give_back, keep_freed_memory

def faults_of_the_last_time():
    sizes = [40 << 20, 3 << 20, 70 << 20] * 2
    for _ in range(6):  # holes that fit to the byte are of no use to aligned tensors
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        found = [torch.zeros(size, dtype=torch.uint8) for size in sizes]
        del found
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4 >> 10

torch.set_num_threads(1)
if child := os.fork():
    os.waitpid(child, 0)
else:
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "1000000"
keep_freed_memory()
kept = faults_of_the_last_time()
full = resident_mib()
give_back()
print(kept, full - resident_mib(), flush=True)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_tensors_as_large_as_those_before_cost_no_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    theirs, ours = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    pages = (226 << 20) // 4096
    assert theirs[0] > pages // 2  # who sets one of the variables has the last word
    faults, given_back_mib = ours
    assert faults < pages // 20
    assert given_back_mib > 100
