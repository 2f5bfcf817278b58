"""What takes room in a storage, and what of it may go: `python -m raylab.storage`, and `prune`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raylab.errors import InputError
from raylab.search.keeping import disk_use, needs, size_text
from raylab.search.running import default_storage
from raylab.search.storage import Storage

_CACHES = ("features", "text", "labelled", "demo", "checked", "locks")
"""Folders of a machine that are made again where they are missing."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, print what takes room, or delete what may go; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raylab.storage", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("usage", "prune"),
        default="usage",
        help="usage: what takes room (default); prune: list what may go, and delete it with --yes",
    )
    parser.add_argument(
        "--storage", default=default_storage(), metavar="DIR", help="a path or URI (default: %(default)s)"
    )
    parser.add_argument("--orphans", action="store_true", help="prune: jobs that no study has any more")
    parser.add_argument(
        "--caches",
        action="store_true",
        help="prune: what is made again where it is missing: tokenized datasets, plain text, copies of remote data; "
        "of a URI, all of this machine's copies",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        storage = Storage.open(options.storage)
        if options.command == "usage":
            _print_usage(storage, console)
            return 0
        if not (options.orphans or options.caches):
            raise InputError("prune: found neither --orphans nor --caches; one of them says what may go")
        _refuse_while_driven(storage)
        orphans = _orphans(storage) if options.orphans else {}
        caches = _caches(storage) if options.caches else {}
        _print_list(orphans, caches, console, deleted=options.yes)
        if options.yes:
            for key in orphans:
                storage.discard(key)
            for folder in caches:
                shutil.rmtree(folder, ignore_errors=True)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return 2
    return 0


def _print_usage(storage: Storage, console: Console) -> None:
    _print_table(storage.location, disk_use(storage), console)
    if storage.location != str(storage.root):
        console.print()
        _print_table(f"{storage.root} (this machine's copies)", disk_use(Storage(storage.root)), console)


def _print_table(title: str, sizes: dict[str, int], console: Console) -> None:
    console.print(title, highlight=False, markup=False)
    table = Table(box=None, show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for kind, size in sizes.items():
        table.add_row(kind, size_text(size))
    table.add_row("all", size_text(sum(sizes.values())))
    console.print(table)


def _refuse_while_driven(storage: Storage) -> None:
    driven = [study for study in storage.studies() if storage.is_driven(study)]
    if driven:
        raise InputError(f"prune: a sweep of {', '.join(driven)} runs over this storage; wait for it, or stop it")


def _orphans(storage: Storage) -> dict[str, int]:
    """Bytes of the jobs that are in no study, by key."""
    noted = needs(storage)
    if unknown := [study for study, needed in noted.items() if needed is None]:
        raise InputError(
            f"prune --orphans: which jobs {', '.join(unknown)} has is not known; run its sweep once, or delete "
            f"{storage.location}/studies/{unknown[0]} if it is of no use any more"
        )
    needed = {key for study in noted.values() if study is not None for key in study["jobs"]}
    sizes: Counter[str] = Counter()
    for name, size in storage.files():
        top, _, rest = name.partition("/")
        key = rest.partition("/")[0]
        if top == "jobs" and "/" in rest and key not in needed:
            sizes[key] += size
    return dict(sizes.most_common())


def _caches(storage: Storage) -> dict[Path, int]:
    """Bytes of the folders that are made again, by path."""
    names: Iterable[str] = _CACHES if storage.location == str(storage.root) else (*_CACHES, "jobs")
    folders = [storage.root / name for name in names]
    return {folder: _size(folder) for folder in folders if folder.is_dir()}


def _size(folder: Path) -> int:
    return sum((Path(inside) / name).lstat().st_size for inside, _, names in os.walk(folder) for name in names)


def _print_list(orphans: dict[str, int], caches: dict[Path, int], console: Console, *, deleted: bool) -> None:
    for name, size in (*orphans.items(), *caches.items()):
        console.print(f"{size_text(size):>9}  {name}", highlight=False, markup=False)
    total = size_text(sum(orphans.values()) + sum(caches.values()))
    what = f"{len(orphans)} jobs and {len(caches)} folders, {total}"
    console.print(f"{what}: deleted" if deleted else f"{what}; --yes deletes them", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
