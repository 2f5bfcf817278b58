from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from raylab.train.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = b"x" * (64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
took_effect = keep_freed_memory()
faults()
print(int(took_effect), first, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    took_effect, before, after = map(int, done.stdout.split())
    if not took_effect:
        pytest.skip("this C library has no mallopt")
    assert before >= 100  # each block is mapped anew, and touched
    assert after < before / 20
