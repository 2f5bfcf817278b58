"""Results of a study, read from MLflow: interference, transfer, tables, figures and a report.

    import analysis
    results = analysis.load("demo")
    results.interference()

Needs neither torch nor Ray: a laptop that reaches the tracking server is enough.
"""

from analysis.results import Results, load
from analysis.summary import interference_text, summarise

__all__ = ["Results", "interference_text", "load", "summarise"]
