"""`python -m raylab.status`: how the studies of a storage stand, from another shell, and what a job left."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from raylab.data.location import is_url
from raylab.errors import InputError
from raylab.search.running import default_storage
from raylab.search.storage import Storage
from raylab.view import draw, one_line

STATUS_FILE = "status.json"  # as raylab.board writes it, which takes longer to import
LOG_FILES = "log*.txt"  # as raylab.search.worker names them

SILENCE_SECONDS = 60.0
"""A driver writes its status every second; one on another machine that has not for so long is gone."""

_RUNNING, _GONE = "running", "interrupted"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raylab.status", description=__doc__)
    parser.add_argument("study", nargs="?", help="the name of a study (default: one line for each that there is)")
    parser.add_argument(
        "--storage", default=default_storage(), metavar="DIR", help="where results lie (default: %(default)s)"
    )
    parser.add_argument("--watch", action="store_true", help="stay, and show how it goes on")
    parser.add_argument("--logs", metavar="JOB", help="print the error and output of a job: its key or name, or a part")
    parser.add_argument("--json", action="store_true", help="print the status file, for scripts")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        storage = _open(options.storage)
        if options.logs is not None:
            _print_logs(storage, options.study, options.logs)
        elif options.study is None:
            _list(storage, console, as_json=options.json)
        elif options.json:
            print(json.dumps(_read(storage, options.study)))
        elif options.watch and console.is_terminal:
            _watch(storage, options.study, console)
        else:
            status = _read(storage, options.study)
            console.print(_shown(status, console.width, None))
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def state_of(status: Mapping[str, Any], now: float | None = None) -> str:
    """How a sweep stands: its own word, or `interrupted` where it says `running` and its driver is gone."""
    if status["state"] != _RUNNING:
        return str(status["state"])
    if status["host"] == socket.gethostname():
        return _RUNNING if _is_alive(status["pid"]) else _GONE
    silent = (time.time() if now is None else now) - status["updated"]
    return _RUNNING if silent < SILENCE_SECONDS else _GONE


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A number is given to another process in time: this one must be Python's.
    with contextlib.suppress(OSError):
        return b"python" in Path(f"/proc/{process}/cmdline").read_bytes()
    return True


def _open(location: str) -> Storage:
    """The storage, which is only read here: none is made.

    Raises:
        InputError: There is none.
    """
    path = location.removeprefix("file://")
    if is_url(path):
        return Storage.open(location)
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"--storage {location}: there is no folder {root}; name the one that the sweep was given")
    return Storage(root)


def _read(storage: Storage, study: str) -> dict[str, Any]:
    """The last snapshot of a study.

    Raises:
        InputError: There is none; the nearest names are given.
    """
    text = storage.read_study_file(study, STATUS_FILE)
    if text is None:
        names = storage.studies()
        if study in names:
            raise InputError(
                f"study {study} in {storage.location} has no status: no sweep of it got as far as its jobs"
            )
        near = difflib.get_close_matches(study, names, n=3, cutoff=0.5) or names
        known = f"there are {', '.join(near)}" if near else "it holds no study yet"
        raise InputError(f"no study {study!r} in {storage.location}: {known}")
    status: dict[str, Any] = json.loads(text)
    status["state"] = state_of(status)
    return status


def _shown(status: Mapping[str, Any], width: int, height: int | None) -> RenderableType:
    parts: list[RenderableType] = [draw(status, width, height, recent=True)]
    if status["state"] == _GONE:
        who = f"process {status['pid']} on {status['host']}"
        parts += [Text(), Text(f"The driver ({who}) runs no more. To go on, in {status['folder']}:", style="yellow")]
        parts.append(Text(f"  {status['command']}"))
    return Group(*parts)


def _watch(storage: Storage, study: str, console: Console) -> None:
    status = _read(storage, study)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_shown(status, console.width, console.height - 1), refresh=True)
            if status["state"] != _RUNNING:
                break
            time.sleep(1.0)
            status = _read(storage, study)
    console.print(_shown(status, console.width, None))


def _list(storage: Storage, console: Console, *, as_json: bool) -> None:
    found = {}
    for study in storage.studies():
        with contextlib.suppress(InputError):  # no status yet
            found[study] = _read(storage, study)
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        raise InputError(f"{storage.location} holds no study yet: python -m raylab.sweep begins one")
    width = max(map(len, found))
    for study, status in sorted(found.items(), key=lambda item: -item[1]["updated"]):
        line = one_line(status, status["state"], time.time())
        console.print(f"{study:<{width}}  {line}", highlight=False, markup=False, soft_wrap=True)


def _print_logs(storage: Storage, study: str | None, job: str) -> None:
    """Print what a job left: how it failed, and what its processes printed.

    Raises:
        InputError: No job, or more than one, is meant.
    """
    key, name = _find_job(storage, study, job)
    print(f"{name or 'job'}  {key}")
    print(f"folder  {storage.location_of(key)}")
    error = storage.read_error(key)
    printed = {"error": error or ""}
    for path in sorted(storage.folder(key).glob(LOG_FILES)):  # of several workers one each
        printed[path.name] = path.read_text(encoding="utf-8", errors="replace")
    for title, text in printed.items():
        if text:
            print(f"\n{title}\n{text.rstrip()}")
    if not any(printed.values()):
        state = "is done" if storage.is_finished(key) else "has not failed"
        print(f"\nIt {state}, and printed nothing.")


def _find_job(storage: Storage, study: str | None, job: str) -> tuple[str, str | None]:
    """Key and name of the job that is meant by a key, a name or the beginning or a part of one."""
    names: dict[str, str] = {}
    for known in [study] if study is not None else storage.studies():
        with contextlib.suppress(InputError):
            status = _read(storage, known)
            for entry in (*status["running"], *status["failures"]):
                names[entry["key"]] = entry["name"]
    found = {key: name for key, name in names.items() if key.startswith(job) or name == job}
    if not found:
        found = {key: name for key, name in names.items() if job in name}
    if not found:  # done, or not begun: by its key alone
        folders = storage.folder("x").parent.glob("*") if job else ()
        keys = [path.name for path in folders if path.name.startswith(job) and path.is_dir()]
        found = dict.fromkeys(keys, "")
    if len(found) == 1:
        ((key, name),) = found.items()
        return key, name or None
    shown = ", ".join(f"{key[:10]} ({name})" if name else key[:10] for key, name in list(found.items())[:5])
    if found:
        raise InputError(f"--logs {job}: {len(found)} jobs are meant: {shown}; give more of the key")
    raise InputError(
        f"--logs {job}: no job that runs, failed or left a folder has such a key or name; "
        "the sweep's lines and the study's MLflow runs have them"
    )


if __name__ == "__main__":
    sys.exit(main())
