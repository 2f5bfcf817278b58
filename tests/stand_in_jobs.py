"""Jobs without work, for tests of what runs them: a setup hook of Ray's worker processes."""

from __future__ import annotations

import raylab.search.execution as execution
from raylab.search.jobs import WholeRun

HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Environment variable from which the workers of a Ray that is started take the hook's name."""


def do_no_work() -> None:
    """Make every job of this process one that is done at once."""
    execution.start = lambda *arguments, **options: WholeRun(dict)  # type: ignore[assignment]
