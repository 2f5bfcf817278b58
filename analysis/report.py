"""`python -m analysis.report STUDY`: a study's tables, figures and a page with all of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow.parquet
import yaml

from analysis import figures, page, tables
from analysis.results import Results, load
from analysis.summary import interference_text, searched_recipes
from analysis.tradeoff import tradeoff
from raylab.errors import InputError

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, write the report and print its tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help="name of a study, or its YAML file")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else runs/mlflow.db)"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder to write (default: runs/reports/STUDY)")
    options = parser.parse_args(arguments)
    try:
        results = load(study_name(options.study), options.tracking_uri)
        folder = options.output or Path("runs", "reports", results.study.name)
        files = write_report(results, folder)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return BAD_INPUT
    print(report_text(results))
    print("\nFiles")
    for file in files:
        print(f"  {file}")
    return 0


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


def report_text(results: Results) -> str:
    """The report's tables for a terminal."""
    parts = [
        interference_text(results),
        f"In the layout of the paper's Table 2\n\n{tables.text(results.table_of_paper(2))}",
    ]
    recipes = searched_recipes(results)
    if not recipes.empty:
        parts.append(
            f"Pretraining recipes of models that have several, dev scores in percent\n\n{tables.text(recipes)}"
        )
    return "\n\n".join(parts)


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write table2.md, table2.csv, interference.csv, scores.parquet, the figures that have data, and report.html.

    Args:
        results: The study's results.
        folder: Where to; made if missing, and files of these names are replaced.

    Returns:
        The files, in the order of a reader's interest.

    Raises:
        InputError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write(results, folder)
    except OSError as error:
        raise InputError(f"{folder}: the report cannot be written there ({error.strerror})") from error


def _write(results: Results, folder: Path) -> list[Path]:
    interference = results.interference()
    points = tradeoff(results.best(), results.study)
    table = results.table_of_paper(2)
    images = {}
    if interference["difference"].notna().any():
        images["interference.png"] = figures.interference_heatmap(interference, results.study)
    if points["zero_shot"].notna().any():
        images["tradeoff.png"] = figures.tradeoff_scatter(points, results.study)
    for name in ("interference.png", "tradeoff.png"):
        if name in images:
            figures.save(images[name], folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier report, which would pass for this one's
    texts = {
        "report.html": page.report_page(results),
        "table2.md": tables.markdown(table) + "\n",
        "table2.csv": tables.csv(table),
        "interference.csv": tables.csv(interference),
    }
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")
    pyarrow.parquet.write_table(results.table, folder / "scores.parquet")
    return [folder / name for name in (*texts, *images, "scores.parquet")]


if __name__ == "__main__":
    sys.exit(main())
