"""Whether a study's population makes sense."""

from __future__ import annotations

from raylab.config import SearchConfig, StudyConfig
from raylab.errors import InputError

CHANGEABLE = ("pretrain.learning_rate", "pretrain.temperature")
"""Fields that may change while a model trains."""

_RANGES = ({"uniform"}, {"loguniform"}, {"choice"})
_OF_OTHER_SEARCHES = ("constraints", "enqueue", "warm_start", "early_stopping")


def check_population(study: StudyConfig, search: SearchConfig, origin: str) -> None:
    """Refuse a search with a population that makes no sense in its study; `origin` is named in errors.

    Raises:
        InputError: The space has another field than CHANGEABLE, or a range with conditions or of whole numbers; there
            are more generations than steps; `num_samples` is another number; the section has what only other searches
            can do; or the study changes fields on the way by itself.
    """
    population = search.population
    if population is None:
        return
    for path, distribution in search.space.items():
        if path not in CHANGEABLE:
            raise InputError(
                f"{origin}: search.space.{path}: found with search.population, but it cannot change while a model "
                f"trains; a population searches {' and '.join(CHANGEABLE)}"
            )
        if set(distribution) not in _RANGES:
            raise InputError(
                f"{origin}: search.space.{path}: found {dict(distribution)}; a population needs uniform, loguniform or "
                "choice, and nothing beside it"
            )
    if search.num_samples != population.trials:
        raise InputError(
            f"{origin}: search.num_samples: found {search.num_samples}; a population of {population.size} over "
            f"{population.generations} generations is {population.trials} trials; leave it out"
        )
    if population.generations > study.pretrain.steps:
        raise InputError(
            f"{origin}: search.population.generations: found {population.generations}; at most pretrain.steps, "
            f"{study.pretrain.steps}"
        )
    for name in _OF_OTHER_SEARCHES:
        if getattr(search, name, None):
            raise InputError(f"{origin}: search.{name}: found with search.population, which has none; leave it out")
    for field in ("changes", "until"):
        if getattr(study.pretrain, field):
            raise InputError(
                f"{origin}: pretrain.{field}: found with search.population, which decides by itself what changes when; "
                "leave it out"
            )
