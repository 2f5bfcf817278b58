"""Downstream tasks, by name."""

from __future__ import annotations

from typing import Any

from raylab.errors import InputError
from raylab.tasks.base import Task
from raylab.tasks.ner import NER
from raylab.tasks.nli import NLI
from raylab.tasks.pos import POS
from raylab.tasks.qa import QA

_ALL: tuple[Task[Any], ...] = (NER, POS, QA, NLI)
TASKS: dict[str, Task[Any]] = {task.name: task for task in _ALL}


def get_task(name: str) -> Task[Any]:
    """The task of this name.

    Raises:
        InputError: There is none; names those that there are.
    """
    if name not in TASKS:
        raise InputError(f"no task {name!r}; one of {', '.join(TASKS)}")
    return TASKS[name]
