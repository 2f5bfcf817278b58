"""A finished pretraining, and probes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from raylab.config import PretrainJob
from raylab.config.probes import ProbeJob, ProbesConfig, probe_jobs
from raylab.probes.run import ProbeRun

LANGUAGES = ("aa", "bb")


class Pretrained(NamedTuple):
    """A finished pretraining."""

    job: PretrainJob
    folder: Path
    prepared: Path

    def probe(self, kind: str, **fields: Any) -> ProbeRun:
        """A probe of it; the fields are those of its section."""
        return self.run(self.probe_job(kind, **fields))

    def probe_job(self, kind: str, **fields: Any) -> ProbeJob:
        """As a study would plan it."""
        (job,) = probe_jobs(ProbesConfig.model_validate({kind: fields}), self.job)
        return job

    def run(self, job: ProbeJob) -> ProbeRun:
        """Start it."""
        return ProbeRun(
            job,
            model_folder=self.folder / "model",
            snapshots_folder=self.folder / "snapshots",
            prepared_folder=self.prepared,
        )
