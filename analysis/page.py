"""One HTML page with all that a study gave, whole in itself: no script, no font and no picture from elsewhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis import sections
from analysis.contrasts import with_all_sources
from analysis.figures import png
from analysis.findings import findings
from analysis.heatmap import furthest_difference, heat_panels
from analysis.paper_parts import PaperPart, paper_parts
from analysis.tables import MISSING, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.results import Results


def report_page(results: Results, parts: list[PaperPart] | None = None, comparison: str = "") -> str:
    """The page's HTML.

    Args:
        results: The study's results.
        parts: Tables and figures in the paper's layout; by default, those that the study has.
        comparison: The study beside the paper, as text; "": not asked for.
    """
    interference = with_all_sources(results.interference())
    context = {
        "name": results.study.name,
        "description": results.study.configuration.get("description", ""),
        "facts": sections.facts(results),
        "findings": findings(results),
        "panels": heat_panels(interference, results.study) if interference["difference"].notna().any() else [],
        "furthest": furthest_difference(interference),
        "intervals": bool(interference["low"].notna().any()),
        "comparison": comparison,
        "tradeoff": sections.tradeoff(results),
        "transfer": sections.transfer_table(results),
        "paper": paper_parts(results) if parts is None else parts,
        "curves": sections.curves(results),
        "probes": sections.probes(results),
        "search": sections.search(results),
        "cost": sections.cost(results),
        "failures": sections.failures(results),
        "provenance": sections.provenance(results),
    }
    return _environment().get_template("report.html").render(context)


def table_html(
    frame: pd.DataFrame, caption: str = "", *, index: bool = True, decimals: int = 1, words: bool = False
) -> Markup:
    """A frame as a table that scrolls inside its box, with headings that a screen reader can tell.

    Args:
        frame: Columns of numbers and strings; missing values are dashes.
        caption: What it shows.
        index: Whether the index's levels are shown, as headings of the rows.
        decimals: Digits after the point of real numbers.
        words: Whether cells are texts, which may be broken.
    """
    content = frame.to_html(
        index=index,
        border=0,
        na_rep=MISSING,
        float_format=lambda value: number(value, decimals),
        index_names=False,
        classes="table words" if words else "table",
        justify="unset",
    )
    head, rule, body = content.partition("</thead>")
    head = re.sub(r"<th colspan", '<th scope="colgroup" colspan', head)
    head = re.sub(r"<th(?![a-z]| scope)", '<th scope="col"', head)
    body = re.sub(r"<th(?![a-z])", '<th scope="row"', body)
    text = re.sub(r'<th scope="col"( colspan="\d+")?></th>', r"<td\1></td>", head) + rule + body
    for level in frame.index.names[::-1] if index else ():
        before, blank, after = text.partition("</thead>")[0].rpartition("<td></td>")
        if level and blank:
            text = f"{before}<td>{Markup.escape(str(level))}</td>{after}</thead>{text.partition('</thead>')[2]}"
    if caption:
        text = text.replace("<thead>", f"<caption>{Markup.escape(caption)}</caption><thead>", 1)
    return Markup(f'<div class="wide" tabindex="0" role="region" aria-label="{Markup.escape(caption)}">{text}</div>')


def figure_html(figure: Figure, description: str) -> Markup:
    """A figure as a PNG inside the page."""
    data = base64.b64encode(png(figure)).decode("ascii")
    width = round(96 * figure.get_figwidth())  # text as large as the page's
    return Markup(f'<img alt="{Markup.escape(description)}" width="{width}" src="data:image/png;base64,{data}">')


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("analysis", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Callable[..., Any]] = {
        "number": number,
        "table": table_html,
        "figure": figure_html,
        "svg": lambda text: Markup(text),
    }
    environment.filters.update(filters)
    return environment
