"""Optuna's storage: SQLite or PostgreSQL, by URL, and what to do while it is away."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from raylab.config.search import without_password
from raylab.errors import InputError

PATIENCE_SECONDS = 1800.0
"""How long a search waits for a storage that was there and is away."""

LOCKED_SECONDS = 60.0
"""How long SQLite waits for who reads or writes beside it, such as optuna-dashboard."""

_EXAMPLES = "a URL such as sqlite:///trials.db or postgresql://USER@HOST/DATABASE"

_Result = TypeVar("_Result")


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at a URL, its tables made where they are not there.

    Raises:
        InputError: It cannot be opened; a password in the URL is not shown.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    where = f"search.storage: {without_password(url)}"
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            f"{where} is no URL; one such as sqlite:///trials.db or postgresql://USER@HOST/DATABASE"
        ) from None
    options: dict[str, Any] = {"pool_pre_ping": True}
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
        if importlib.util.find_spec("psycopg") is None:
            raise InputError(f"{where} needs psycopg: pip install 'raylab[postgres]'")
    elif address.drivername.startswith("sqlite"):
        options["connect_args"] = {"timeout": LOCKED_SECONDS}
    try:
        return optuna.storages.RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=options)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if address.password:
            reason = reason.replace(str(address.password), "***")
        raise InputError(f"{where} cannot be opened ({reason}); {_EXAMPLES} is needed") from None


def patiently(action: Callable[[], _Result], url: str, wait: Callable[[float], None] = time.sleep) -> _Result:
    """Read or write a storage; while it is away, wait for it.

    Args:
        action: What to do; it may be done more than once.
        url: The storage, to name it.
        wait: Waits for so many seconds.

    Raises:
        InputError: It stays away for longer than `PATIENCE_SECONDS`.
    """
    waited, pause = 0.0, 0.5
    while True:
        try:
            return action()
        except (StorageInternalError, OperationalError) as error:
            shown = without_password(url)
            if waited >= PATIENCE_SECONDS:
                raise InputError(
                    f"search.storage: {shown} is away for {waited:.0f} s; when it is back, the same command goes on"
                ) from None
            if waited == 0.0:
                reason = type(error.__cause__ or error).__name__
                logging.getLogger(__name__).warning("search.storage %s is away (%s): waiting", shown, reason)
            wait(pause)
            waited += pause
            pause = min(2 * pause, 15.0)
