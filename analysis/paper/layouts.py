"""The paper's Tables 2 to 7 as layouts: which score of a study stands in which row and column.

A layout knows nothing of scores. The table, what is missing of it and its comparison with the paper are made from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.interference import Place
from analysis.labels import OTHER_LABELS, PAPER_LABELS, SETTING_LABELS, in_variant_order, main_metric, task_label
from analysis.reference import paper_languages
from analysis.study import Study
from raylab.errors import InputError

TITLES = {
    2: "NER and POS",
    3: "QA, F1",
    4: "Sets of three languages beside pairs",
    5: "Size of the training corpus",
    6: "NLI, accuracy",
    7: "QA, F1 and exact match",
}
"""What each of the paper's tables is about."""

_TASKS = {2: ("ner", "pos"), 3: ("qa",), 4: ("ner", "pos"), 5: ("ner", "pos", "qa"), 6: ("nli",), 7: ("qa",)}
_SECOND_METRICS = {"qa": "em"}  # which Tables 5 and 7 print beside the main one
_STUDIES = {4: "language_similarity", 5: "corpus_size"}  # others: variants
_JOINT_LABELS = {2: "JointPair", 3: "JointTri"}

Known = frozenset[tuple[str, str]]
"""Tasks, each with a language that a study has labelled data of."""


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        row: Block and model, as printed.
        column: Task with metric, and language, as printed.
        variant: Variant of the model.
        languages: The language set that the number belongs to.
        setting: within or zero_shot.
        task: Downstream task.
        metric: Such as f1.
        language: Of the test set.
    """

    row: tuple[str, str]
    column: tuple[str, str]
    variant: str
    languages: tuple[str, ...]
    setting: str
    task: str
    metric: str
    language: str

    @property
    def train_language(self) -> str:
        """Language that is finetuned on: the set's source where the setting is zero-shot."""
        return self.languages[0] if self.setting == "zero_shot" else self.language

    def place(self, study: Study) -> Place:
        """The place of its scores; the mono model of a language stands for it in every set."""
        model = study.model_languages(self.languages, self.variant, self.language)
        return Place(self.variant, model, self.task, self.metric, self.train_language, self.language)


@dataclass(frozen=True)
class Layout:
    """A table of the paper over the languages of a study.

    Attributes:
        number: Number of the table.
        averages: Whether each task has a column of averages.
        columns: From the left, without averages.
        cells: Its numbers, block by block, row by row, column by column; without averages.
    """

    number: int
    averages: bool
    columns: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Rows, from the top."""
        return list(dict.fromkeys(cell.row for cell in self.cells))


def layout(number: int, study: Study, known: Known) -> Layout:
    """Lay out a table of the paper for a study.

    A task and language has columns where a study has scores of it, or runs that did not finish. A language that has
    no score at all yet has those that the paper gives it.

    Args:
        number: Of the table, from 2 to 7.
        study: The study's outline.
        known: Tasks and languages of which the study has runs.

    Raises:
        InputError: The paper has no such table of scores, or the study nothing that belongs into it; the message
            names a study that has.
    """
    if number not in TITLES:
        raise InputError(f"table {number} of the paper has no layout here; these have: {', '.join(map(str, TITLES))}")
    tasks = [task for task in _TASKS[number] if task in study.tasks]
    if not tasks:
        raise InputError(
            f"table {number} of the paper is of {_either(_TASKS[number])}; study {study.name!r} has "
            f"{', '.join(study.tasks) or 'no task'}, the study {_STUDIES.get(number, 'variants')} has them"
        )
    places = [(task, metric) for task in tasks for metric in _metrics(number, task)]
    candidates = list({4: _table_4, 5: _table_5}.get(number, _table_of_variants)(number, study, places))
    cells = tuple(cell for cell in candidates if _is_shown(cell.task, cell.language, study, known))
    if not cells:
        raise InputError(
            f"table {number} of the paper has no column in study {study.name!r}: of none of its target languages "
            f"there is {_either(tuple(tasks))} data"
        )
    shown = {cell.column for cell in cells}
    columns = tuple(column for column in dict.fromkeys(cell.column for cell in candidates) if column in shown)
    return Layout(number, number in (2, 3, 6, 7), columns, cells)


def targets(study: Study) -> list[tuple[str, tuple[str, ...], str]]:
    """Column label, language set and language of every target: all languages of a set but the first, the source.

    The target of one pair is labelled by its language, one of several sets also by the set.
    """
    found = [(languages, language) for languages in study.language_sets for language in languages[1:]]
    sets = Counter(language for _, language in found)
    pairs = Counter(language for languages, language in found if len(languages) == 2)
    labelled = []
    for languages, language in found:
        own = sets[language] == 1 or (len(languages) == 2 and pairs[language] == 1)
        labelled.append((language if own else f"{language} ({'-'.join(languages)})", languages, language))
    return labelled


def _table_of_variants(number: int, study: Study, places: list[tuple[str, str]]) -> Iterator[Cell]:
    """Tables 2, 3, 6 and 7: variants down, target languages across."""
    for setting, block in SETTING_LABELS.items():
        if number == 6 and setting == "within":
            continue  # NLI is finetuned in the source language alone
        for variant in in_variant_order([*PAPER_LABELS, *study.variants]):
            if (variant, setting) == ("mono", "zero_shot"):
                continue
            row = (block, _row_label(variant, study))
            for task, metric in places:
                for label, languages, language in targets(study):
                    column = (task_label(task, metric), label)
                    yield Cell(row, column, variant, languages, setting, task, metric, language)


def _table_4(number: int, study: Study, places: list[tuple[str, str]]) -> Iterator[Cell]:
    """Joint models of more languages beside those of a pair; a column for each target of both."""
    larger: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for languages in study.language_sets:
        for language in languages[1:] if len(languages) > 2 else ():
            larger.setdefault((languages[0], language), []).append(languages)
    pairs = [pair for pair in study.language_sets if len(pair) == 2 and (pair[0], pair[1]) in larger]
    if "joint" not in study.variants or not pairs:
        raise InputError(
            f"table {number} of the paper compares joint models of two languages with those of three; study "
            f"{study.name!r} has no such sets, the study language_similarity has them"
        )
    sizes = [[len(languages) for languages in larger[pair[0], pair[1]]] for pair in pairs]
    by_size = all(len(set(own)) == len(own) for own in sizes)

    def label(languages: tuple[str, ...]) -> str:
        size = _JOINT_LABELS.get(len(languages), f"Joint of {len(languages)}")
        return size if by_size or len(languages) == 2 else f"{size} {'-'.join(languages)}"

    for setting, block in SETTING_LABELS.items():
        rows: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for pair in pairs:
            for languages in (pair, *larger[pair[0], pair[1]]):
                rows.setdefault(label(languages), []).append((languages, pair[1]))
        for name, columns in rows.items():
            for task, metric in places:
                for languages, language in columns:
                    column = (task_label(task, metric), language)
                    yield Cell((block, name), column, "joint", languages, setting, task, metric, language)


def _table_5(number: int, study: Study, places: list[tuple[str, str]]) -> Iterator[Cell]:
    """Pairs, on the target language and on the source; where names stand for a language with less text, those only."""
    aliases = study.aliases
    shown = {*aliases, *aliases.values()}
    pairs = [pair for pair in study.language_sets if len(pair) == 2 and (not shown or pair[1] in shown)]
    if not pairs:
        raise InputError(
            f"table {number} of the paper is of language pairs; study {study.name!r} has none, the study "
            f"{_STUDIES[number]} has them"
        )
    sources = list(dict.fromkeys(pair[0] for pair in pairs))
    bases = list(dict.fromkeys(aliases.get(pair[1], pair[1]) for pair in pairs))
    variants = in_variant_order(["mono", "joint", *study.variants])
    for place, names in ((1, bases), (0, sources)):
        block = f"Within-language Performance on {'/'.join(names)}"
        for variant in variants[1:] if place == 0 else variants:  # the paper has no mono here
            for task, metric in places:
                for pair in pairs:
                    column = (task_label(task, metric), pair[1])
                    row = (block, _row_label(variant, study, {len(pair) for pair in pairs}))
                    yield Cell(row, column, variant, pair, "within", task, metric, pair[place])


def _metrics(number: int, task: str) -> list[str]:
    second = _SECOND_METRICS.get(task) if number in (5, 7) else None
    return [main_metric(task), *([second] if second else [])]


def _is_shown(task: str, language: str, study: Study, known: Known) -> bool:
    if (task, language) in known:
        return True
    if any(language == other for _, other in known):
        return False  # its other tasks have been run: there is no data of this one
    base = study.aliases.get(language, language)
    of_paper = paper_languages(study.tasks)
    return (task, base) in of_paper or all(base != other for _, other in of_paper)


def _row_label(variant: str, study: Study, sizes: set[int] | None = None) -> str:
    if variant == "joint":
        names = {_JOINT_LABELS.get(size, "Joint") for size in sizes or {len(own) for own in study.language_sets}}
        return names.pop() if len(names) == 1 else "Joint"
    return {**PAPER_LABELS, **OTHER_LABELS}.get(variant, variant)


def _either(tasks: tuple[str, ...]) -> str:
    *first, last = (task.upper() for task in tasks)
    return f"{', '.join(first)} or {last}" if first else last
