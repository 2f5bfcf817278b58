"""`python -m analysis.report STUDY`: a study's tables, figures and a page with all of them, in files and in MLflow."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import yaml
from mlflow.exceptions import MlflowException

from analysis import figures, page, tables
from analysis.findings import findings
from analysis.paper_parts import PaperPart, paper_parts
from analysis.publication import publish
from analysis.results import Results, load
from analysis.summary import interference_text, searched_recipes
from analysis.tradeoff import tradeoff
from raylab.errors import InputError

BAD_INPUT = 2

_TABLE_FORMATS: dict[str, Callable[[pd.DataFrame], str]] = {
    "csv": tables.csv,
    "md": lambda frame: tables.markdown(frame) + "\n",
    "txt": lambda frame: tables.text(frame) + "\n",
    "tex": lambda frame: tables.latex(frame) + "\n",
}
_FIGURE_FORMATS = ("png", "svg", "pdf")
FORMATS = (*_TABLE_FORMATS, *_FIGURE_FORMATS)
DEFAULT_FORMATS = ("csv", "md", "png")

# Names, without endings, of all that a report may write: what an earlier one left of them would pass for this one's.
_NAMES = ["report", "summary", "comparison", "interference", "transfer", "tradeoff", "recipes"]
_NAMES += [f"table{number}" for number in range(2, 8)] + [f"figure{number}" for number in range(1, 5)]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, write the report and print its tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help="name of a study, or its YAML file")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else runs/mlflow.db)"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder to write (default: runs/reports/STUDY)")
    parser.add_argument(
        "--format",
        metavar="NAMES",
        help=f"joined by commas: {', '.join(_TABLE_FORMATS)} for tables, {', '.join(_FIGURE_FORMATS)} for figures, "
        f"or all (default: {','.join(DEFAULT_FORMATS)})",
    )
    parser.add_argument("--compare-paper", action="store_true", help="set each value beside the paper's")
    parser.add_argument("--no-mlflow", action="store_true", help="only write files, nothing into MLflow")
    options = parser.parse_args(arguments)
    try:
        formats = chosen_formats(options.format)
        results = load(study_name(options.study), options.tracking_uri)
        comparison = comparison_text(results) if options.compare_paper else ""
        folder = options.output or Path("runs", "reports", results.study.name)
        files = write_report(results, folder, formats, comparison)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return BAD_INPUT
    print(report_text(results))
    if comparison:
        print(f"\n{comparison}")
    print("\nFiles")
    for file in files:
        print(f"  {file}")
    if options.no_mlflow:
        return 0
    try:
        place = publish(results, files)
    except (MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"raylab: the files are written, but MLflow did not take them ({reason[:300]})", file=sys.stderr)
        return 1
    print(f"\nIn MLflow, as artifacts of the run `report` of the experiment {results.study.name}\n  {place}")
    return 0


def chosen_formats(names: str | None) -> tuple[str, ...]:
    """The formats that `--format` names.

    Raises:
        InputError: If there is one that does not exist.
    """
    if names is None:
        return DEFAULT_FORMATS
    chosen = tuple(dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip()))
    if chosen == ("all",):
        return FORMATS
    if unknown := [name for name in chosen if name not in FORMATS]:
        raise InputError(f"--format {names}: there is no format {unknown[0]!r}; there are {', '.join(FORMATS)}, or all")
    return chosen


def study_name(name_or_path: str) -> str:
    """The study's name, from the field `study` where a YAML file is given.

    Raises:
        InputError: If the file is missing, is no YAML or has no such field.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        return name_or_path
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a study's YAML file or its name") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError.at(path, line, f"not YAML: {error.problem}") from error
    if not isinstance(content, dict) or not isinstance(content.get("study"), str):
        raise InputError.at(path, None, "the field `study`, the study's name, is missing")
    return content["study"]


def comparison_text(results: Results) -> str:
    """The study beside the paper, as text.

    Raises:
        InputError: If the two have no score in common.
    """
    from analysis import comparison

    return str(comparison.comparison_text(results))


def report_text(results: Results) -> str:
    """The report's findings and tables for a terminal."""
    parts = ["\n".join(f"{finding.topic}: {finding.text}" for finding in findings(results)), interference_text(results)]
    with contextlib.suppress(InputError):  # the study has nothing that belongs into it
        parts.append(f"In the layout of the paper's Table 2\n\n{tables.text(results.table_of_paper(2), blocks=True)}")
    recipes = searched_recipes(results)
    if not recipes.empty:
        parts.append(
            f"Pretraining recipes of models that have several, dev scores in percent\n\n{tables.text(recipes)}"
        )
    return "\n\n".join(parts)


def write_report(
    results: Results, folder: Path, formats: Collection[str] = DEFAULT_FORMATS, comparison: str = ""
) -> list[Path]:
    """Write report.html, summary.md, scores.parquet, and each table and figure that has data.

    Args:
        results: The study's results.
        folder: Where to; made if missing, and files of a report's names are replaced or, without data, deleted.
        formats: Of tables and figures; of `FORMATS`.
        comparison: The study beside the paper, as text; "": not asked for.

    Returns:
        The files, in the order of a reader's interest.

    Raises:
        InputError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _NAMES:
            for ending in ("html", *FORMATS):
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        return _write(results, folder, formats, comparison)
    except OSError as error:
        raise InputError(f"{folder}: the report cannot be written there ({error.strerror})") from error


def _write(results: Results, folder: Path, formats: Collection[str], comparison: str) -> list[Path]:
    parts = paper_parts(results)
    texts = {"report.html": page.report_page(results, parts, comparison), "summary.md": summary_markdown(results)}
    if comparison:
        texts["comparison.txt"] = comparison + "\n"
    for name, frame in _frames(results, parts).items():
        texts |= {f"{name}.{ending}": write(frame) for ending, write in _TABLE_FORMATS.items() if ending in formats}
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    images = []
    endings = [ending for ending in _FIGURE_FORMATS if ending in formats]
    for name, figure in (_figures(results, parts) if endings else {}).items():
        for ending in endings:
            figures.save(figure, folder / f"{name}.{ending}")
            images.append(f"{name}.{ending}")
    pyarrow.parquet.write_table(results.table, folder / "scores.parquet")
    return [folder / name for name in (*texts, *images, "scores.parquet")]


def summary_markdown(results: Results) -> str:
    """The findings, and the scores of interference and transfer, in Markdown."""
    lines = [f"# Study {results.study.name}", ""]
    lines += [f"- **{finding.topic}**: {finding.text}" for finding in findings(results)]
    points = tradeoff(results.best(), results.study)[["task", "variant", "within", "zero_shot", "targets"]]
    if not points.empty:
        lines += ["", "Test scores in percent, means over target languages and seeds:", ""]
        lines.append(tables.markdown(points))
    return "\n".join(lines) + "\n"


def _frames(results: Results, parts: list[PaperPart]) -> dict[str, pd.DataFrame]:
    frames = {part.file: part.table for part in parts if part.table is not None}
    others = {
        "interference": results.interference(),
        "transfer": results.transfer(),
        "recipes": searched_recipes(results),
    }
    return frames | {name: frame for name, frame in others.items() if not frame.empty}


def _figures(results: Results, parts: list[PaperPart]) -> dict[str, Any]:
    drawn: dict[str, Any] = {part.file: part.figure for part in parts if part.figure is not None}
    interference = results.interference()
    if interference["difference"].notna().any():
        drawn["interference"] = figures.interference_heatmap(interference, results.study)
    points = tradeoff(results.best(), results.study)
    if points["zero_shot"].notna().any():
        drawn["tradeoff"] = figures.tradeoff_scatter(points, results.study)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
