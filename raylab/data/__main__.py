"""`python -m raylab.data prepare STUDY`: corpora to tokenizers and token stores, where the sweep will find them."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from rich.console import Console
from rich.progress import Progress, TaskID

from raylab.config import PrepareJob
from raylab.data.source import open_source
from raylab.errors import InputError
from raylab.search.execution import Execution
from raylab.search.plan import plan
from raylab.search.storage import Storage
from raylab.study import load_study


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare the study's data; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raylab.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("prepare", help="train the tokenizers and write the token stores of a study")
    command.add_argument("study", help="a YAML file, or the name of a study that comes with raylab")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        dest="overrides",
        help="set a field of the study; may be repeated",
    )
    command.add_argument("--storage", default="runs", metavar="DIR", help="where results lie (default: runs)")
    options = parser.parse_args(arguments)
    try:
        prepare(options.study, options.overrides, options.storage, Console())
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("raylab: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def prepare(study_name: str, overrides: list[str], location: str, console: Console) -> None:
    """Prepare every language set of a study that is not prepared yet.

    Raises:
        InputError: The study or its text is wrong.
    """
    study = load_study(study_name, overrides)
    storage = Storage.open(location)
    source = open_source(study.data, storage.root)
    jobs = [job for job in plan(study, source).jobs.values() if job.kind == "prepare"]
    with Progress(console=console) as progress:
        for job in jobs:
            assert isinstance(job.config, PrepareJob)
            bar = progress.add_task(job.labels["languages"], total=1.0)
            if not storage.is_finished(job.key):
                Execution(job, storage, source, report=partial(_show, progress, bar, job.labels["languages"])).advance(
                    0.0
                )
            progress.update(bar, completed=1.0)
    for job in jobs:
        console.print(f"{job.labels['languages']}: {storage.folder(job.key)}", highlight=False, soft_wrap=True)
        for language, numbers in storage.read_record(job.key)["result"].items():
            console.print(
                f"  {language}: {numbers['sentences']['train']:,} sentences, {numbers['tokens']['train']:,} tokens, "
                f"{numbers['tokens_per_word']:.2f} tokens a word, {numbers['unknown_rate']:.3%} unknown",
                highlight=False,
                soft_wrap=True,
            )


def _show(progress: Progress, bar: TaskID, languages: str, what: str, share: float) -> None:
    progress.update(bar, description=f"{languages}: {what}", completed=share)


if __name__ == "__main__":
    sys.exit(main())
