"""Text of a study ahead of its sweep: `python -m raylab.data prepare STUDY`, and `describe STUDY`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from raylab.config import StudyConfig
from raylab.data.source import Source, open_source
from raylab.errors import InputError
from raylab.search.plan import Job, plan
from raylab.search.preparation import describe, prepare_all
from raylab.search.running import default_storage
from raylab.search.storage import Storage
from raylab.study import load_study

_TABLE_WIDTH = 110  # characters


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare, or describe, the study's data; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raylab.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, what in (
        ("prepare", "make the tokenizers and token stores of a study, where its sweep will find them"),
        ("describe", "prepare what is missing and print what the study reads, per language set and language"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("study", help="a YAML file, or the name of a study that comes with raylab")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="A.B=C",
            dest="overrides",
            help="set a field of the study; may be repeated",
        )
        command.add_argument(
            "--storage", default=default_storage(), metavar="DIR", help="where results lie (default: %(default)s)"
        )
        command.add_argument(
            "--workers",
            type=_workers,
            metavar="N",
            help="processes that prepare (default: the cores, if it is worth it)",
        )
        if name == "describe":
            command.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    console = Console(width=max(_TABLE_WIDTH, Console().width))
    try:
        study = load_study(options.study, options.overrides)
        storage = Storage.open(options.storage)
        source = open_source(study.data, storage.root)
        shown = console if options.command == "prepare" else Console(stderr=True)  # `describe` prints for programs too
        jobs = prepare(study, storage, source, options.workers, shown)
        if options.command == "prepare":
            _print_folders(jobs, storage, console)
            return 0
        description = describe(study, jobs, storage, source)
        if options.json:
            print(json.dumps(description, indent=2, ensure_ascii=False))
        else:
            _print_tables(description, console)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("raylab: a process died, for lack of memory perhaps; the same command goes on from here", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"raylab: {error}; the same command goes on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("raylab: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; a whole number from 1 on is needed")
    return int(text)


def prepare(study: StudyConfig, storage: Storage, source: Source, workers: int | None, console: Console) -> list[Job]:
    """Prepare every language set of a study that is not prepared yet; returns the preparations.

    Raises:
        InputError: The study or its text is wrong.
    """
    jobs = [job for job in plan(study, source).jobs.values() if job.kind == "prepare"]
    with Progress(console=console) as progress:
        bars = {job.labels["languages"]: progress.add_task(job.labels["languages"], total=1.0) for job in jobs}

        def show(languages: str, what: str, share: float) -> None:
            progress.update(bars[languages], description=f"{languages}: {what}", completed=share)

        prepare_all(jobs, storage, source, workers, show)
        for bar in bars.values():
            progress.update(bar, completed=1.0)
    return jobs


def _print_folders(jobs: Sequence[Job], storage: Storage, console: Console) -> None:
    for job in jobs:
        console.print(f"{job.labels['languages']}: {storage.folder(job.key)}", highlight=False, soft_wrap=True)
        for language, numbers in storage.read_record(job.key)["result"].items():
            console.print(
                f"  {language}: {numbers['sentences']['train']:,} sentences, {numbers['tokens']['train']:,} tokens, "
                f"{numbers['tokens_per_word']:.2f} tokens a word, {numbers['unknown_rate']:.3%} unknown",
                highlight=False,
                soft_wrap=True,
            )


def _print_tables(description: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f"Text of {description['study']}; probabilities at T = {description['temperature']:g}")
    for heading in (
        "languages",
        "",
        "train",
        "meta",
        "valid",
        "tokens",
        "a word",
        "unknown",
        "p",
        "repeated",
        "skipped",
    ):
        table.add_column(heading, justify="left" if heading in ("languages", "") else "right")
    for prepared in description["text"]:
        for language, numbers in prepared["by_language"].items():
            table.add_row(
                prepared["languages"],
                language,
                *(f"{numbers['sentences'][split]:,}" for split in ("train", "meta", "valid")),
                f"{numbers['tokens']['train']:,}",
                f"{numbers['tokens_per_word']:.2f}",
                f"{numbers['unknown_rate']:.3%}",
                f"{numbers['probability']:.3f}",
                f"{numbers['dropped_duplicates']:,}",
                f"{numbers['skipped_lines']:,}",
            )
        table.add_section()
    console.print(table)
    console.print(
        "train, meta, valid: sentences; tokens, tokens a word, unknown tokens: of train; repeated: training sentences "
        "dropped; skipped: lines that are not UTF-8",
        highlight=False,
    )
    for task, languages in description["labelled"].items():
        for language, counts in languages.items():
            console.print(
                f"{task} {language}: {', '.join(f'{count:,} {split}' for split, count in counts.items())} examples",
                highlight=False,
            )


if __name__ == "__main__":
    sys.exit(main())
