"""`python -m raylab.sweep` in a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def start_sweep(study: Path, *options: str) -> subprocess.Popen[str]:
    """A sweep under way, in a process group of its own, with its results in `runs` beside the study."""
    elsewhere = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")  # what would send it to another cluster or server
    return subprocess.Popen(
        [sys.executable, "-m", "raylab.sweep", str(study), "--storage", "runs", "--address", "local", *options],
        cwd=study.parent,
        env={name: value for name, value in os.environ.items() if name not in elsewhere},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_sweep(study: Path, *options: str) -> tuple[int, str]:
    """The exit code of a sweep, and what it printed."""
    process = start_sweep(study, *options)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output
