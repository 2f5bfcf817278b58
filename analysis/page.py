"""One HTML page with a study's tables and figures, whole in itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.results import Results
from analysis.summary import interference_text, searched_recipes
from analysis.tables import MISSING, number

_CAPTIONS = {
    "interference.png": "Mono minus each model, within language: red is interference, blue a gain.",
    "tradeoff.png": "Within language against zero-shot; bars are standard deviations over seeds, the line is mono.",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border: none; }
tbody th { text-align: left; font-weight: normal; vertical-align: top; }
thead { border-bottom: 1px solid #888; }
figure { margin: 1rem 0; }
img { max-width: 100%; }
pre, .wide { overflow-x: auto; }
"""


def report_page(results: Results, images: Sequence[Path]) -> str:
    """The page's HTML.

    Args:
        results: The study's results.
        images: PNG files to embed, in their order.
    """
    name = html.escape(results.study.name)
    figures = "\n".join(_figure(image) for image in images)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{name}: negative interference</title><style>{_STYLE}</style></head>
<body>
<h1>Study {name}</h1>
<pre>{html.escape(interference_text(results))}</pre>
{figures}
<h2>In the layout of the paper's Table 2</h2>
<p>Test scores in percent, means over seeds; averages are computed from the columns at their left.</p>
{_table(results.table_of_paper(2))}
{_recipes(results)}
</body>
</html>
"""


def _figure(image: Path) -> str:
    data = base64.b64encode(image.read_bytes()).decode("ascii")
    caption = html.escape(_CAPTIONS[image.name])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _recipes(results: Results) -> str:
    recipes = searched_recipes(results)
    if recipes.empty:
        return ""
    return f"""<h2>Pretraining recipes</h2>
<p>Models that have several; mean dev scores in percent. The scores above are of the chosen one.</p>
{_table(recipes, index=False)}"""


def _table(frame: pd.DataFrame, *, index: bool = True) -> str:
    content = frame.to_html(index=index, border=0, na_rep=MISSING, float_format=number, index_names=False)
    return f'<div class="wide">{content}</div>'
