"""What a sweep's driver imports: seconds that a user waits for at every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_study_of_which_all_is_done_needs_no_ray() -> None:
    program = "import sys, raylab.sweep; print([name for name in ('ray', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_driver_does_without_torch_and_transformers() -> None:
    modules = "raylab.sweep, raylab.search.searcher, raylab.search.tuner, raylab.tracking, raylab.conclusion, analysis"
    program = f"import sys, {modules}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_second_sweep_over_a_storage_estimates_without_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from raylab.config import ModelConfig, PretrainConfig, PretrainJob
from raylab.search.cost import Estimator
from raylab.search.plan import Job
from raylab.search.storage import Storage

sizes = {{"model": ModelConfig(), "pretrain": PretrainConfig(), "meta": None}}
config = PretrainJob(languages=("aa",), variant="mono", seed=0, **sizes)
estimator = Estimator(Storage.open({str(tmp_path)!r}), {{}}, {{}})
print(estimator.seconds(Job("pretrain", "0" * 20, config)), "torch" in sys.modules)
estimator.save()
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert [run[1] for run in runs] == ["True", "False"]
    assert runs[0][0] == runs[1][0]
