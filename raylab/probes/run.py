"""A probe as a job of the sweep."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch

from raylab.config.probes import ProbeJob
from raylab.data.prepare import Prepared
from raylab.errors import InputError
from raylab.probes.gradients import GradientProbe
from raylab.probes.pruning import PruningProbe
from raylab.train.run import Measurement


class Probe(Protocol):
    """What `ProbeRun` drives.

    Attributes:
        done: Units of work that are done.
        total: Of all units.
    """

    done: int
    total: int

    def step(self) -> list[Measurement]:
        """Do one unit, and return what it gave."""

    def state(self) -> dict[str, Any]:
        """What another process needs to go on; it may have to do some units again, which measure nothing."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write details into `folder` and return the result."""


class ProbeRun:
    """Probes one pretrained model; a `raylab.train.run.Run`.

    All that is random is a function of the job's seed and of the unit of work. Measurements by the pretraining's step:

    - gradients: `gradient/cosine/A-B` of two languages, and `gradient/cosine/A-A` within one; followed by a place,
      `/layer.0`, `/attention` or `/layer.0.attention`, the cosine there.
    - pruning: `pruning/cosine/A-B` likewise; `pruning/sparsity/A`; `pruning/perplexity/A`, under the language's own
      mask. By the step of a mask's training: `pruning/loss/A/REPEAT` and `pruning/expected_sparsity/A/REPEAT`.

    Args:
        config: What to do.
        model_folder: The model as pretraining left it.
        snapshots_folder: Models that it kept on the way, a folder a step; needed with `snapshot_every`.
        prepared_folder: What `raylab.data.prepare` wrote for the model.
        device: Where to compute, as PyTorch names it.

    Raises:
        InputError: A model or the text is not there, or does not fit the job.
    """

    def __init__(
        self,
        config: ProbeJob,
        *,
        model_folder: Path,
        snapshots_folder: Path | None = None,
        prepared_folder: Path,
        device: str = "cpu",
    ):
        self.job = config
        self._seconds = 0.0
        prepared, where = Prepared(prepared_folder), torch.device(device)
        self._probe: Probe
        if config.probe == "gradients":
            models = {step: _snapshot(snapshots_folder, step) for step in config.steps[:-1]}
            self._probe = GradientProbe(config, {**models, config.step: model_folder}, prepared, where)
        else:
            self._probe = PruningProbe(config, model_folder, prepared, where)

    @property
    def finished(self) -> bool:
        """Whether all units of work are done."""
        return self._probe.done >= self._probe.total

    @property
    def progress(self) -> float:
        """Share of the units of work that are done, from 0 to 1."""
        return self._probe.done / self._probe.total

    def advance(self, seconds: float) -> list[Measurement]:
        """Work for about `seconds`, at least one unit, and return what was measured.

        Raises:
            FloatingPointError: A loss is NaN or infinite.
        """
        started = time.perf_counter()
        measurements: list[Measurement] = []
        while not self.finished:
            measurements += self._probe.step()
            if time.perf_counter() - started >= seconds:
                break
        self._seconds += time.perf_counter() - started
        return measurements

    def state(self) -> dict[str, Any]:
        """Everything needed to go on; of gradients, from the last whole snapshot."""
        return {"probe": self._probe.state(), "seconds": self._seconds}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that an equal job gave."""
        self._probe.load_state(state["probe"])
        self._seconds = state["seconds"]

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write the details as Parquet into `folder` and return the result, fit for JSON.

        Returns:
            What `GradientProbe.finish` or `PruningProbe.finish` says, with `probe`, and `seconds` of work.
        """
        return {"probe": self.job.probe, **self._probe.finish(folder), "seconds": self._seconds}


def _snapshot(folder: Path | None, step: int) -> Path:
    if folder is None:
        raise ValueError("a job with `snapshot_every` needs the folder of the snapshots")
    if not (folder / str(step)).is_dir():
        raise InputError.at(
            folder, None, f"no snapshot of step {step}; pretraining with the same snapshot_every keeps it"
        )
    return folder / str(step)
