"""What the analysis takes: `python -m benchmarks.analysis [--sections bootstrap load report] [--repeats 3]`.

`bootstrap`: all the uncertainty of a whole study, made up in memory: intervals over seeds, 10,000 resamples of every
test set, approximate randomisation, both sources together, recovery and averages, of NER, POS and QA in six languages,
seven variants and three seeds. Beside it scipy's `bootstrap` of one difference, which is handed the same sums, times
the differences there are.

`load`: reading a study of 10,000 finetuning runs, the first time, again, and asking the
results; beside it `mlflow.search_runs` on the same store.

`report`: the whole report of a study of 5,000 finetuning runs, the first time and again.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from scipy import stats

from analysis.averages import averages
from analysis.examples import Examples, Outcomes
from analysis.interference import interference, transfer
from analysis.study import Study
from analysis.uncertainty import RESAMPLES, ScoreDraws
from benchmarks.synthetic_study import write_finetune_runs
from benchmarks.training import print_table

LANGUAGES = ("en", "fr", "ru", "ar", "hi", "sw")
VARIANTS = ("mono", "joint", "ffn", "attn", "adapter", "shared_adapter", "meta_adapter")
SEEDS = 3
REPORTED_RUNS = 5000
LOADED_RUNS = 10_000
EXAMPLES = {"ner": 2000, "pos": 2000, "qa": 1000}
METRICS = {"ner": ("f1",), "pos": ("f1", "accuracy"), "qa": ("f1", "em")}


def bootstrap(repeats: int) -> None:
    """Seconds of everything, of its parts, and of scipy's bootstrap at the same resamples."""
    study, best, examples = made_up_study()
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        draws = ScoreDraws(examples)
        start = time.perf_counter()
        cells = _timed(seconds, "interference", lambda draws=draws: interference(best, study, draws=draws))
        gaps = _timed(seconds, "transfer", lambda draws=draws: transfer(best, study, draws=draws))
        means = _timed(seconds, "averages", lambda draws=draws: averages(best, study, draws=draws))
        seconds.setdefault("all", []).append(time.perf_counter() - start)
    peer = _scipy_seconds(examples) * (len(cells) + len(gaps)) * SEEDS
    print(f"\n{len(examples)} scores, {len(cells)} cells, {len(gaps)} gaps, {len(means)} averages")
    rows = [[name, f"{statistics.median(times):.2f}"] for name, times in seconds.items()]
    rows.append(["scipy.stats.bootstrap, one cell and seed, times all of them", f"{peer:.0f}"])
    print_table(f"A whole study, {RESAMPLES:,} resamples", ["", "seconds"], rows)
    print(f"\nlargest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def made_up_study() -> tuple[Study, pd.DataFrame, Examples]:
    """A study of pairs with English: its outline, chosen scores and outcomes of each example."""
    study = Study("made up", tuple(("en", other) for other in LANGUAGES[1:]), VARIANTS, tuple(EXAMPLES))
    models = [("mono", language, (language,)) for language in LANGUAGES]
    models += [(variant, f"en-{other}", ("en", other)) for variant in VARIANTS[1:] for other in LANGUAGES[1:]]
    random = np.random.default_rng(0)
    hardness = {(task, language): random.random(count) for task, count in EXAMPLES.items() for language in LANGUAGES}
    rows = []
    outcomes: dict[tuple[str, str, str], Outcomes] = {}
    for variant, name, languages in models:
        for task in EXAMPLES:
            for train in languages:
                for seed in range(SEEDS):
                    key = f"{variant}-{name}-{task}-{train}-{seed}"
                    for language in languages if train == languages[0] else (train,):
                        skill = random.normal(0.7 if train == language else 0.4, 0.02)
                        for metric, one in _outcomes(task, language, hardness[task, language], skill, random).items():
                            outcomes[key, language, metric] = one
                            setting = "within" if train == language else "zero_shot"
                            place = (key, variant, name, task, metric, setting, train, language, seed, one.score)
                            rows.append(place)
    columns = ["key", "variant", "languages", "task", "metric", "setting", "train_language", "eval_language", "seed"]
    return study, pd.DataFrame(rows, columns=[*columns, "value"]), Examples(outcomes)


def _outcomes(
    task: str, language: str, hardness: np.ndarray, skill: float, random: np.random.Generator
) -> dict[str, Outcomes]:
    """Of each metric: about 2 entities and 20 words a sentence, and answers that are wrong, right or half right."""
    count = len(hardness)
    chance = np.clip(skill + 0.3 * (hardness - 0.5), 0.0, 1.0)
    if task == "qa":
        exact = (random.random(count) < chance).astype(float)
        partly = np.where(exact, 1.0, random.random(count) * (random.random(count) < 0.5))
        return {name: _one(values, np.ones(count), task, language) for name, values in (("f1", partly), ("em", exact))}
    things = 1 + (hardness * 100).astype(int) % (3 if task == "ner" else 30)
    right = random.binomial(things, chance)
    given = np.maximum(right, things + random.integers(-1, 2, count))
    found = {"f1": _one(2.0 * right, (things + given).astype(float), task, language)}
    if task == "pos":
        found["accuracy"] = _one(right.astype(float), things.astype(float), task, language)
    return found


def _one(numerators: np.ndarray, denominators: np.ndarray, task: str, language: str) -> Outcomes:
    return Outcomes(numerators, denominators, 100.0 * numerators.sum() / denominators.sum(), (task, language, 0))


def _scipy_seconds(examples: Examples) -> float:
    first, second = (examples.get(f"{model}-ner-fr-0", "fr", "f1") for model in ("mono-fr", "joint-en-fr"))
    assert first is not None
    assert second is not None

    def difference(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        sums = [part.sum(axis=axis) for part in parts]
        return 100.0 * (sums[0] / sums[1] - sums[2] / sums[3])

    data = (first.numerators, first.denominators, second.numerators, second.denominators)
    start = time.perf_counter()
    stats.bootstrap(
        data,
        difference,
        n_resamples=RESAMPLES,
        paired=True,
        method="percentile",
        batch=500,
        rng=np.random.default_rng(0),
    )
    return time.perf_counter() - start


def _timed(seconds: dict[str, list[float]], name: str, work: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    start = time.perf_counter()
    found = work()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return found


def load(repeats: int) -> None:
    """Seconds of `analysis.load` and of what one asks first, and of `mlflow.search_runs` on the same."""
    import mlflow

    import analysis

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        runs = write_finetune_runs(uri, LOADED_RUNS)
        mlflow.set_tracking_uri(uri)
        seconds: dict[str, list[float]] = {}

        def timed(name: str, work: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            found = work()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            return found

        for repeat in range(repeats):
            cache = f"{folder}/cache{repeat}"
            results = timed("analysis.load, first", lambda: analysis.load("synthetic", uri, cache=cache))  # noqa: B023
            time.sleep(2.5)  # as long as a file counts as just written to
            timed("analysis.load, to note that nobody writes", lambda: analysis.load("synthetic", uri, cache=cache))  # noqa: B023
            results = timed("analysis.load, again", lambda: analysis.load("synthetic", uri, cache=cache))  # noqa: B023
            timed("best()", results.best)
            timed("filter()", lambda: results.filter(task="ner", languages="en-fr"))  # noqa: B023
            timed("compare()", lambda: results.compare("joint", "adapter", examples=False))  # noqa: B023
            timed("history() of one job", lambda: _one_history(results))  # noqa: B023
            timed("table.filter()", lambda: results.table.filter(pc.equal(results.table["split"], "test")))  # noqa: B023
            timed("mlflow.search_runs", lambda: mlflow.search_runs(experiment_names=["synthetic"], max_results=50_000))
    rows = [[name, f"{statistics.median(times):.3f}"] for name, times in seconds.items()]
    print_table(f"A study of {runs:,} runs in SQLite", ["", "seconds"], rows)


def _one_history(results: Any) -> pd.DataFrame:
    (key,) = results.table["checkpoint"].slice(0, 1).to_pylist()
    frame: pd.DataFrame = results.history("train/loss", key=key)
    return frame


def report(repeats: int) -> None:
    """Seconds of `python -m analysis.report` on a made-up study of 5,000 finetuning runs: files, page, printed tables.

    The whole command in a process of its own, imports included; `first` with an empty cache, `again` with a full one.
    """
    seconds: dict[str, list[float]] = {"first": [], "again": []}
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        runs = write_finetune_runs(uri, REPORTED_RUNS)
        command = [sys.executable, "-m", "analysis.report", "synthetic", "--tracking-uri", uri, "--no-mlflow"]
        for repeat in range(repeats):
            environment = {**os.environ, "RAYLAB_CACHE": f"{folder}/cache{repeat}"}
            for times in seconds.values():
                start = time.perf_counter()
                subprocess.run(
                    [*command, "--output", f"{folder}/report"], env=environment, check=True, capture_output=True
                )
                times.append(time.perf_counter() - start)
        size = Path(folder, "report", "report.html").stat().st_size
    rows = [[name, f"{statistics.median(times):.1f}"] for name, times in seconds.items()]
    print_table(f"The report of a study of {runs:,} runs ({size / 1e6:.1f} MB page)", ["", "seconds"], rows)


SECTIONS: dict[str, Callable[[int], None]] = {"bootstrap": bootstrap, "load": load, "report": report}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis", description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    options = parser.parse_args()
    for name in options.sections:
        SECTIONS[name](options.repeats)


if __name__ == "__main__":
    main()
