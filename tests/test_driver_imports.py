"""What a sweep's driver imports: seconds that a user waits for at every start."""

from __future__ import annotations

import subprocess
import sys


def test_a_study_of_which_all_is_done_needs_no_ray() -> None:
    program = "import sys, raylab.sweep; print([name for name in ('ray', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_driver_does_without_torch_and_transformers() -> None:
    modules = "raylab.sweep, raylab.search.searcher, raylab.search.tuner, raylab.tracking, raylab.conclusion, analysis"
    program = f"import sys, {modules}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
