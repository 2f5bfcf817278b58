"""What a job prints, at whatever level, is in its folder; a job that prints nothing leaves no file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import os, sys, warnings
from pathlib import Path
from raylab.search.job_log import printed_to
print("before")
for text in ("one", "two"):
    with printed_to(Path(sys.argv[1])):
        print(text)
        warnings.warn(f"careful {text}")
        os.write(2, b"from C\\n")
        os.system("echo from a child")
with printed_to(Path(sys.argv[2])):
    pass
try:
    with printed_to(Path(sys.argv[1])):
        raise ValueError
except ValueError:
    print("after")
with printed_to(Path("/dev/null/log.txt")):
    print("nowhere else")
"""


def test_what_is_printed_is_kept_in_order_and_nothing_else(tmp_path: Path) -> None:
    log, silent = tmp_path / "job" / "log.txt", tmp_path / "silent" / "log.txt"
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(log), str(silent)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines() == ["before", "after", "nowhere else"]
    assert ended.stderr == ""
    kept = log.read_text(encoding="utf-8")
    for text in ("one", "two"):
        assert f"careful {text}" in kept
    assert kept.count("from C\n") == kept.count("from a child\n") == 2
    assert kept.index("one\n") < kept.index("two\n")
    assert not silent.exists()
