"""Trials of earlier searches, brought into a new one where their scores are answers to the same question.

A score is comparable where the data, the objective and every field that the new search does not vary are equal; what
differs otherwise (the space, the sampler, the number of samples) does not change what a trial's score means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.search.database import open_storage
from raylab.study.parameters import VARIANT, Space
from raylab.study.sampler import contains
from raylab.study.space import variants_of

QUESTION = "raylab.question"
"""Attribute of an Optuna study: what its scores are answers to."""

MEASURED = "measured"
"""Attribute of a trial: what its constraints are on."""

ORIGIN = "from"
"""Attribute of a trial that another search ran: that search's name, and the trial's number there."""


class Earlier(NamedTuple):
    """One finished trial of an earlier search.

    Attributes:
        origin: Name of the search, and the trial's number there.
        values: Of the new search's parameters, by path.
        scores: Objectives and measurements by name.
    """

    origin: tuple[str, int]
    values: dict[str, Any]
    scores: dict[str, float]


def question_of(study: StudyConfig, data: str) -> dict[str, Any]:
    """What the scores of a study's search are answers to, fit for JSON; the searched fields as the study has them."""
    kept = ("languages", "seeds", "model", "pretrain", "meta", "conflict", "finetune", "data")
    dumped = study.model_dump(mode="json", include=set(kept))
    for place in ("source", "text", "labelled"):  # `contents` stands for what lies there
        del dumped["data"][place]
    for unasked in ("valid_every", "valid_batches", "snapshot_every", "gradients_every"):  # they change no score
        dumped["pretrain"].pop(unasked, None)
    return {**_flat(dumped), "contents": data, "variants": sorted(variants_of(study))}


def earlier_trials(name: str, study: StudyConfig, space: Space, url: str, data: str, own: str) -> list[Earlier]:
    """The trials of an earlier search that inform this one.

    Args:
        name: The earlier study's name, or URL#NAME; NAME is a study's or Optuna's.
        study: The new study.
        space: Of the new search.
        url: Optuna's storage of the new search, by which that of another study is found.
        data: Fingerprint of the new study's data.
        own: Optuna's name of the new search, which is not an earlier one of its study.

    Raises:
        InputError: There is no such search, its scores are not comparable, or none of its trials lies in the space.
    """
    where = f"study {study.study}: search.warm_start: {name.rpartition('#')[2]}"
    earlier = _find(name, url, own, where)
    asked = earlier.user_attrs.get(QUESTION)
    if asked is None:
        raise InputError(f"{where}: it does not say what its scores mean: no search of raylab's, or an old one")
    complete = [one for one in earlier.get_trials(states=(TrialState.COMPLETE,)) if ORIGIN not in one.user_attrs]
    ours = question_of(study, data)
    defaults = question_of(StudyConfig(study="s", languages=study.languages, search=study.search), data)
    asked = {**defaults, **asked}  # of fields that there were not yet
    found, differs = [], ""
    for trial in complete:
        theirs = {**asked, **{path: value for path, value in trial.params.items() if path != VARIANT}}
        if VARIANT in trial.params:
            theirs["variants"] = [trial.params[VARIANT]]
        difference = _difference(theirs, ours, space)
        if difference is not None:
            differs = differs or difference
            continue
        values = {path: theirs[path] for path in space.paths if path != VARIANT}
        if VARIANT in space.paths:
            values[VARIANT] = theirs["variants"][0]
        names = earlier.metric_names or []
        scores = dict(zip(names, trial.values, strict=True)) | trial.user_attrs.get(MEASURED, {})
        needed = [*study.search.objective, *study.search.constraints] if study.search else []
        if any(one not in scores for one in needed):
            differs = differs or f"it did not measure {next(one for one in needed if one not in scores)}"
        elif all(contains(one, values[one.path]) for one in space.parameters if one.path in space.active(values)):
            found.append(Earlier((earlier.study_name, trial.number), values, scores))
        else:
            differs = differs or "its trials lie outside search.space"
    if not found:
        reason = differs or "it has no finished trial"
        raise InputError(f"{where}: none of its trials informs this search: {reason}{_advice(earlier, space)}")
    return found


def _find(name: str, url: str, own: str, where: str) -> optuna.Study:
    address, _, wanted = name.rpartition("#")
    for place in [address] if address else _places(url, wanted):
        storage = open_storage(place)
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
        fitting = [one for one in names if one != own and wanted in (one, one.rpartition("-")[0])]
        studies = [optuna.load_study(study_name=one, storage=storage) for one in fitting]
        counts = [len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) for study in studies]
        if studies:  # of several, after changes of the study, the last with results
            return studies[max(range(len(studies)), key=lambda place: (counts[place] > 0, place))]
    raise InputError(
        f"{where}: no search of this name; a study that was searched over this storage, or URL#NAME, is needed"
    )


def _places(url: str, name: str) -> Iterator[str]:
    """Where the search of another study may lie: by default each has a file in its own folder."""
    path = Path(url.removeprefix("sqlite:///"))
    other = path.parent.parent / name / path.name
    if url.startswith("sqlite:///") and other.is_file():
        yield f"sqlite:///{other}"
    yield url


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], space: Space) -> str | None:
    """The first field on which two questions differ, of those that the new search does not vary."""
    for path in sorted(theirs.keys() | ours.keys()):
        varied = path in space.paths or (path == "variants" and VARIANT in space.paths and len(theirs[path]) == 1)
        if not varied and theirs.get(path) != ours.get(path):
            if path == "contents":
                return "its data is other data"
            return f"its {path} is {theirs.get(path)!r}, and here it is {ours.get(path)!r}"
    return None


def _advice(earlier: optuna.Study, space: Space) -> str:
    """How to try the best of an incomparable search again."""
    best: list[FrozenTrial] = earlier.best_trials
    for trial in best:
        values = {path: value for path, value in trial.params.items() if path in space.paths}
        if values:
            return f"; to try its best values again: search.enqueue: [{values}]"
    return ""


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inside in value.items():
        if isinstance(inside, Mapping):
            found |= _flat(inside, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = inside
    return found
