"""How a sweep stands: the board that hears of its jobs, the file it leaves, and the command that shows it."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import ChainMap, Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from raylab.board import Board, StatusFile
from raylab.config import FinetuneJob, ModelConfig, PopulationConfig, PretrainConfig, PretrainJob, SearchConfig
from raylab.progress import LINES, ProgressLines
from raylab.search.cost import Estimator
from raylab.search.graph import JobGraph
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.status import main
from raylab.view import draw

_PRETRAIN = PretrainJob(
    languages=("en", "fr"), variant="joint", seed=0, model=ModelConfig(), pretrain=PretrainConfig(), meta=None
)
_FINETUNE = FinetuneJob(
    task="ner",
    train_language="en",
    eval_languages=("en",),
    seed=0,
    epochs=2,
    batch_size=16,
    learning_rate=1e-3,
    max_length=64,
    max_examples=None,
)
_LABELS = {"variant": "joint", "languages": "en-fr", "seed": "0"}
MODEL = Job("pretrain", "aaaa" * 5, _PRETRAIN, (), _LABELS)
TAGGERS = [
    Job("finetune", f"b{n}" * 10, _FINETUNE, (MODEL.key,), {**_LABELS, "seed": str(n), "task": "ner"}) for n in range(3)
]


def _record(job: Job, score: float = 50.0) -> dict[str, Any]:
    result: dict[str, Any] = {"valid_perplexity": {"en": 12.0, "fr": 20.0}}
    if job.kind == "finetune":
        result = {"chosen_epoch": 1, "selection": score, "scores": {"dev": {"en": {"f1": score}}}}
    return {"kind": job.kind, "seconds": 10.0, "result": result}


class _Sweep:
    """A sweep without processes: it tells the listeners what a searcher would."""

    def __init__(self, folder: Path, jobs: list[Job] | None = None, width: int = 100, **options: Any) -> None:
        self.storage = Storage.open(str(folder))
        self.graph = JobGraph(lambda key: False, lambda job: 0.0)
        known = ChainMap(self.graph.jobs, {MODEL.key: MODEL})
        estimator = Estimator(self.storage, known, {("ner", "en"): 100}, speed=1e9)
        self.board = Board("pair", self.graph, estimator, storage=str(folder), **options)
        self.console = Console(record=True, width=width, file=io.StringIO())
        self.lines = ProgressLines(self.board, self.console)
        self.listeners = [self.board, self.lines]
        self.board.slots = 2
        self.graph.add(jobs or [MODEL, *TAGGERS])

    def start(self) -> Job:
        job = self.graph.take()
        assert job is not None
        for listener in self.listeners:
            listener.started(job)
        return job

    def finish(self, job: Job, score: float = 50.0) -> None:
        self.graph.done(job.key)
        for listener in self.listeners:
            listener.done(job, _record(job, score), found=False)

    def fail(self, job: Job, error: str) -> None:
        skipped = self.graph.failed(job.key)
        for listener in self.listeners:
            listener.failed(job, error, skipped)

    def text(self) -> str:
        return self.console.export_text(clear=False)


@pytest.fixture
def sweep(tmp_path: Path) -> _Sweep:
    return _Sweep(tmp_path)


def _shown(status: dict[str, Any], width: int = 100, height: int | None = None, **options: Any) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(draw(status, width, height, **options))
    return console.export_text()


def test_the_board_follows_jobs_from_start_to_end(sweep: _Sweep) -> None:
    before = sweep.board.snapshot()
    assert before["jobs"] == {"pretrain": {"ready": 1}, "finetune": {"waiting": 3}}
    model = sweep.start()
    sweep.board.hosts = {model.key: "node7"}
    sweep.board.measured(model, [("train/loss", 9.0, 10, 1), ("train/loss", 3.25, 20, 2)], 0.4)
    status = sweep.board.snapshot()
    (running,) = status["running"]
    assert (running["name"], running["host"], running["progress"], running["step"]) == (model.name, "node7", 0.4, 20)
    assert running["measured"] == {"train/loss": 3.25}
    assert status["seconds_left"] < before["seconds_left"]
    sweep.finish(model)
    first, second = sweep.start(), sweep.start()
    sweep.finish(first, 71.5)
    sweep.fail(second, "FloatingPointError: loss is nan")
    status = json.loads(json.dumps(sweep.board.snapshot()))
    assert status["jobs"] == {"pretrain": {"done": 1}, "finetune": {"ready": 1, "done": 1, "failed": 1}}
    assert status["best"]["ner"] == {"score": 71.5, "name": first.name, "key": first.key}
    assert [failure["key"] for failure in status["failures"]] == [second.key]
    assert status["running"] == []


def test_the_time_left_is_by_what_runs_before_anything_has_ended(
    sweep: _Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sweep.start()
    now = time.time()
    for seconds, share in ((0, 0.5), (3600, 0.52)):  # it goes on from a checkpoint: 2 % of it take an hour
        monkeypatch.setattr("raylab.board.time.time", lambda seconds=seconds: now + seconds)
        sweep.board.measured(model, [], share)
    left = sweep.board.seconds_left()
    assert left is not None
    assert left == pytest.approx(24 * 3600 / 2, rel=0.1)


def test_the_time_left_has_the_trials_to_come(tmp_path: Path) -> None:
    search = SearchConfig(space={"x": {}}, objective={"a": "max"}, num_samples=6)
    board = _Sweep(tmp_path, search=search, trial=[MODEL, *TAGGERS]).board
    without = board.seconds_left()
    board.unasked = lambda: 6
    assert without is not None
    assert board.seconds_left() == pytest.approx(7 * without)
    population = SearchConfig(
        space={"x": {}}, objective={"a": "max"}, population=PopulationConfig(size=2, generations=3)
    )
    board = _Sweep(tmp_path, search=population, trial=[MODEL, *TAGGERS]).board
    board.unasked = lambda: 6
    assert board.seconds_left() == pytest.approx(3 * without)  # two members, each trained in three parts


def test_what_was_handed_out_and_has_no_process_is_not_said_to_run(sweep: _Sweep) -> None:
    sweep.graph.take()
    assert sweep.board.snapshot()["jobs"]["pretrain"] == {"ready": 1}


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12),
    goals=st.tuples(*[st.sampled_from(["max", "min"])] * 2),
)
def test_the_front_is_of_the_trials_that_no_other_beats(
    scores: list[tuple[int, int]], goals: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    search = SearchConfig(space={"x": {}}, objective=dict(zip("ab", goals, strict=True)))
    board = _Sweep(tmp_path_factory.getbasetemp(), search=search).board
    for number, pair in enumerate(scores):
        board.trial(number, {"x": number}, dict(zip("ab", map(float, pair), strict=True)), found=False)
    board.trial(99, {"x": 0}, None, found=False)
    board.trial(100, {"x": 0}, {}, found=False)
    signs = [1 if goal == "max" else -1 for goal in goals]
    gains = [tuple(sign * value for sign, value in zip(signs, pair, strict=True)) for pair in scores]
    unbeaten = [
        number
        for number, own in enumerate(gains)
        if not any(other != own and all(b >= a for a, b in zip(own, other, strict=True)) for other in gains)
    ]
    shown = {entry["trial"] for entry in board.snapshot()["front"]}
    assert shown <= set(unbeaten)
    assert len(shown) == min(10, len(unbeaten))


def test_the_front_is_of_objectives_and_of_trials_that_keep_to_the_constraints(tmp_path: Path) -> None:
    search = SearchConfig(space={"x": {}}, objective={"a": "max"}, constraints={"parameters": {"max": 100}})
    board = _Sweep(tmp_path, search=search).board
    for number, (score, parameters) in enumerate([(1.0, 90.0), (3.0, 101.0), (2.0, 80.0), (1.5, 95.0)]):
        board.trial(number, {}, {"a": score, "parameters": parameters}, found=False)
    board.trial(4, {}, {"log_perplexity": 9.0}, found=False)  # of a population before its last generation
    assert [entry["trial"] for entry in board.snapshot()["front"]] == [2]


def test_a_line_for_each_job_and_the_command_that_shows_why_one_failed(sweep: _Sweep, tmp_path: Path) -> None:
    model = sweep.start()
    sweep.fail(model, "ValueError: no")
    assert re.search(rf"\[4/4, .* left\] FAILED {model.name}: ValueError: no; 3 jobs that need it", sweep.text())
    command = f"python -m raylab.status pair --storage {tmp_path} --logs {model.key[:10]}"
    assert command in sweep.text().replace("\n", "")


def test_many_lines_become_few(tmp_path: Path) -> None:
    jobs = [replace(MODEL, key=f"{n:020d}") for n in range(300)]
    sweep = _Sweep(tmp_path, jobs)
    with sweep.lines:
        for _ in jobs:
            sweep.finish(sweep.start())
    lines = sweep.text().splitlines()
    assert len(lines) == LINES + 1
    assert lines[-1].endswith(f"and {300 - LINES} pretrain done")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (160, 45), (160, 80)])
def test_the_view_of_many_jobs_fits_a_terminal(tmp_path: Path, width: int, height: int) -> None:
    jobs = [replace(MODEL, key=f"{n:020d}", labels={**_LABELS, "seed": str(n)}) for n in range(60)]
    sweep = _Sweep(tmp_path, jobs, search=SearchConfig(space={"x": {}}, objective={"a": "max", "b": "max"}))
    running = [sweep.start() for _ in range(40)]
    for job in running:
        sweep.board.measured(job, [("train/tokens_per_second", 12345.0, 1, 1), ("train/loss", 2.5, 1, 1)], 0.25)
    sweep.board.trial(3, {"pretrain.temperature": 1.2345}, {"a": 61.0, "b": 1.0}, found=False)
    sweep.fail(running[0], "a reason that is longer than any line of a terminal may well be " * 5)
    text = _shown(sweep.board.snapshot(), width, height)
    lines = text.splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    shown = text.count("loss 2.50")
    assert shown > 2
    assert shown == 39 if height == 80 else f"and {39 - shown} more" in text
    assert ("12,345" in text) is (width > 100)
    assert "trial 3: a 61.00" in text
    assert "FAILED pretrain joint en-fr" in text


def test_the_status_file_is_renewed_and_says_how_the_sweep_ended(sweep: _Sweep, tmp_path: Path) -> None:
    path = tmp_path / "studies" / "pair" / "status.json"
    with StatusFile(sweep.board, sweep.storage.study_folder("pair")):
        first = json.loads(path.read_text(encoding="utf-8"))
        assert (first["state"], first["pid"], first["host"]) == ("running", os.getpid(), socket.gethostname())
        for _ in range(100):
            if (again := json.loads(path.read_text(encoding="utf-8")))["updated"] > first["updated"]:
                break
            time.sleep(0.1)
        assert again["updated"] > first["updated"]
    assert json.loads(path.read_text(encoding="utf-8"))["state"] == "interrupted"
    with StatusFile(sweep.board, sweep.storage.study_folder("pair")):
        sweep.board.finish("done")
    assert json.loads(path.read_text(encoding="utf-8"))["state"] == "done"


def _leave(sweep: _Sweep, study: str = "pair", **changes: Any) -> None:
    status = {**sweep.board.snapshot(), **changes}
    (sweep.storage.study_folder(study) / "status.json").write_text(json.dumps(status), encoding="utf-8")


def _status(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_lists_studies_and_shows_one(
    sweep: _Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.finish(sweep.start())
    job = sweep.start()
    _leave(sweep)
    _leave(sweep, "other", state="failed")
    code, output, _ = _status(capsys, "--storage", tmp_path)
    assert code == 0
    assert re.search(r"pair +running: 1 of 4 jobs, 1 running, about .* left", output)
    assert re.search(r"other +failed: 1 of 4 jobs, ", output)
    code, output, _ = _status(capsys, "pair", "--storage", tmp_path)
    assert code == 0
    assert job.key[:6] in output
    assert "1 of 4 jobs" in output
    assert "runs no more" not in output
    code, output, _ = _status(capsys, "pair", "--storage", tmp_path, "--json")
    assert json.loads(output)["jobs"]["finetune"] == {"ready": 2, "running": 1}


def _ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("host", "old", "gone"),
    [("here", 0, True), ("elsewhere", 0, False), ("elsewhere", 3600, True)],
)
def test_a_driver_that_is_gone_is_told_with_what_goes_on(
    sweep: _Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, old: float, gone: bool
) -> None:
    sweep.start()
    host = socket.gethostname() if host == "here" else "another-machine"
    command = "python -m raylab.sweep pair.yaml --set seeds=[1]"
    _leave(sweep, host=host, pid=_ended_process(), updated=time.time() - old, command=command, folder="/home/someone")
    _, output, _ = _status(capsys, "pair", "--storage", tmp_path)
    assert ("runs no more" in output) is gone
    assert (command in output) is gone
    assert ("interrupted" in output) is gone
    _, output, _ = _status(capsys, "pair", "--storage", tmp_path, "--json")
    assert json.loads(output)["state"] == ("interrupted" if gone else "running")


def test_logs_of_a_job_by_key_or_name(sweep: _Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sweep.start()
    sweep.fail(model, "ValueError: no")
    folder = sweep.storage.folder(model.key)
    sweep.storage.write_error(model.key, "Traceback: here")
    (folder / "log.txt").write_text("careful\n", encoding="utf-8")
    (folder.parent / "aaaa1").mkdir()
    _leave(sweep)
    for job in (model.key, model.key[:6], model.name):
        code, output, _ = _status(capsys, "pair", "--storage", tmp_path, "--logs", job)
        assert code == 0
        assert "Traceback: here" in output
        assert "careful" in output
        assert str(folder) in output
    code, output, _ = _status(capsys, "--storage", tmp_path, "--logs", "aaaa1")
    assert (code, "printed nothing" in output) == (0, True)
    (folder.parent / "c1").mkdir()
    (folder.parent / "c2").mkdir()
    for job, said in (
        ("nothing", "no job that"),
        ("/etc", "no job that"),
        ("*", "no job that"),
        ("c", "2 jobs are meant"),
    ):
        code, _, error = _status(capsys, "--storage", tmp_path, "--logs", job)
        assert (code, error.count("\n")) == (2, 1)
        assert said in error


def test_what_is_not_there_is_told_in_one_line(
    sweep: _Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = _status(capsys, "--storage", tmp_path / "nowhere")
    assert (code, error.count("\n")) == (2, 1)
    assert not (tmp_path / "nowhere").exists()
    code, _, error = _status(capsys, "--storage", tmp_path)
    assert (code, "holds no study yet" in error) == (2, True)
    _leave(sweep)
    code, _, error = _status(capsys, "pear", "--storage", tmp_path)
    assert (code, error.strip()) == (2, f"raylab: no study 'pear' in {tmp_path}: there are pair")
    (tmp_path / "studies" / "begun").mkdir()
    code, _, error = _status(capsys, "begun", "--storage", tmp_path)
    assert (code, "has no status" in error) == (2, True)


def test_the_command_needs_none_of_the_slow_libraries() -> None:
    code = (
        "import sys, raylab.status; print(*sorted(set(sys.modules) & {'ray', 'mlflow', 'torch', 'pandas', 'optuna'}))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


def test_counts_of_the_view_are_those_of_the_snapshot(sweep: _Sweep) -> None:
    sweep.finish(sweep.start())
    sweep.start()
    sweep.graph.take()
    sweep.graph.stopped(TAGGERS[2].key)
    text = _shown(sweep.board.snapshot())
    header, pretrain, finetune = (line.split() for line in text.splitlines()[2:5])
    assert dict(zip(header, map(int, finetune[1:]), strict=True)) == {
        "waiting": 1,
        "running": 1,
        "done": 0,
        "stopped": 1,
    }
    assert Counter(pretrain) == Counter(["pretrain", "1", "0", "0", "0"])
