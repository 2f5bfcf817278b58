"""A study's results in the layout of the paper's Tables 2 to 7 (Wang, Lipton and Tsvetkov 2020)."""

from analysis.paper.layouts import TITLES, Cell, Layout, layout, targets
from analysis.paper.missing import missing_jobs
from analysis.paper.values import filled, known_places, printed, scores_of, table, written

__all__ = [
    "TITLES",
    "Cell",
    "Layout",
    "filled",
    "known_places",
    "layout",
    "missing_jobs",
    "printed",
    "scores_of",
    "table",
    "targets",
    "written",
]
