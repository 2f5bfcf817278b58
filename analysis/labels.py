"""What variants, tasks and metrics are called in tables and figures, and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterable

# The rows of the paper's Table 2, in its order.
PAPER_LABELS = {
    "mono": "Mono",
    "joint": "JointPair",
    "ffn": "+ ffn",
    "attn": "+ attn",
    "adapter": "+ adpt",
    "shared_adapter": "+ share adpt",
    "meta_adapter": "+ meta adpt",
}
OTHER_LABELS = {"norm": "+ norm", "pcgrad": "PCGrad", "gradvac": "GradVac", "external": "External"}
SETTING_LABELS = {"within": "Within-language Monolingual", "zero_shot": "Zero-shot Cross-lingual"}

_MAIN_METRICS = {"ner": "f1", "pos": "f1", "qa": "f1", "nli": "accuracy"}
_MODULE_LABELS = {"ffn": "feed-forward"}
_METRIC_LABELS = {"f1": "F1", "accuracy": "accuracy", "em": "EM"}


def main_metric(task: str) -> str:
    """The metric that a task is tuned and compared by."""
    return _MAIN_METRICS.get(task, "f1")


def metric_label(metric: str) -> str:
    """A metric's name as the paper prints it: `f1` is F1."""
    return _METRIC_LABELS.get(metric, metric)


def task_label(task: str, metric: str | None = None) -> str:
    """A task and a metric of it (by default the main one) as in the paper's headings: `NER (F1)`."""
    return f"{task.upper()} ({metric_label(metric or main_metric(task))})"


def in_metric_order(task: str, metrics: Iterable[str]) -> list[str]:
    """The metrics of a task, the main one first and the others by name."""
    return sorted(set(metrics), key=lambda metric: (metric != main_metric(task), metric))


def in_variant_order(variants: Iterable[str]) -> list[str]:
    """Variants in the paper's order; those it does not have come last."""
    order = [*PAPER_LABELS, *OTHER_LABELS]
    return sorted(set(variants), key=lambda name: (order.index(name) if name in order else len(order), name))


def module_label(module: str) -> str:
    """A module of the encoder in words: `ffn` is feed-forward."""
    return _MODULE_LABELS.get(module, module)
