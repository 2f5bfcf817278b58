"""A study's results in the layout of the paper's Tables 2 to 7 (Wang, Lipton and Tsvetkov 2020)."""

from analysis.paper.layouts import TITLES, Cell, Layout, layout, targets
from analysis.paper.missing import missing_jobs
from analysis.paper.values import known_places, printed, table, written

__all__ = [
    "TITLES",
    "Cell",
    "Layout",
    "known_places",
    "layout",
    "missing_jobs",
    "printed",
    "table",
    "targets",
    "written",
]
