"""The search over trials: seeded, persistent, and blind to test scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raylab.config import FinetuneJob, StudyConfig
from raylab.errors import InputError
from raylab.search.objectives import objectives
from raylab.search.plan import Job
from raylab.search.trials import TrialSearch
from raylab.study import validate


def _study(**search: Any) -> StudyConfig:
    space = {
        "pretrain.temperature": {"uniform": [1, 5]},
        "meta.epsilon": {"loguniform": [1e-3, 1]},
        "model.adapter_ratio": {"choice": [0.25, 0.5]},
    }
    fields = {
        "study": "s",
        "languages": [["aa", "bb"]],
        "variants": ["mono", "meta_adapter"],
        "search": {"space": space, "num_samples": 5, **search},
    }
    return validate(fields, "test")


def _asked(search: TrialSearch, count: int) -> list[dict[str, Any]]:
    values = []
    for _ in range(count):
        asked = search.ask()
        assert asked is not None
        search.tell(
            asked[0], {"within/mean": asked[1]["pretrain.temperature"], "zero_shot/mean": -asked[1]["meta.epsilon"]}
        )
        values.append(asked[1])
    return values


def test_the_studys_own_values_come_first_and_samples_end(tmp_path: Path) -> None:
    search = TrialSearch(_study(), f"sqlite:///{tmp_path}/trials.db", "data")
    values = _asked(search, 5)
    assert values[0] == {"pretrain.temperature": 1.0, "meta.epsilon": 0.01, "model.adapter_ratio": 0.25}
    assert len({value["pretrain.temperature"] for value in values}) == 5
    assert search.ask() is None


def test_an_interrupted_search_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    whole = _asked(TrialSearch(_study(), f"sqlite:///{tmp_path}/whole.db", "data"), 5)
    url = f"sqlite:///{tmp_path}/cut.db"
    first = _asked(TrialSearch(_study(), url, "data"), 2)
    cut = TrialSearch(_study(), url, "data").ask()  # asked for, and the driver dies
    assert cut is not None
    search = TrialSearch(_study(), url, "data")
    assert search.under_way() == {cut[0]: cut[1]}
    search.tell(cut[0], {"within/mean": cut[1]["pretrain.temperature"], "zero_shot/mean": -cut[1]["meta.epsilon"]})
    assert [*first, cut[1], *_asked(search, 2)] == whole
    assert search.ask() is None


def test_more_samples_go_on_with_the_same_search_and_other_data_is_another(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    _asked(TrialSearch(_study(), url, "data"), 5)
    assert len(TrialSearch(_study(num_samples=7), url, "data").complete()) == 5
    assert TrialSearch(_study(), url, "other data").complete() == {}


def test_the_front_holds_what_no_other_trial_beats(tmp_path: Path) -> None:
    search = TrialSearch(_study(), f"sqlite:///{tmp_path}/trials.db", "data")
    for scores in ((1.0, 1.0), (2.0, 0.0), (0.5, 0.5)):
        asked = search.ask()
        assert asked is not None
        search.tell(asked[0], {"within/mean": scores[0], "zero_shot/mean": scores[1]})
    asked = search.ask()
    assert asked is not None
    search.tell(asked[0], None)
    assert sorted(number for number, _, _ in search.best()) == [0, 1]
    assert search.failed() == [3]


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(InputError, match=r"search\.storage: nonsense"):
        TrialSearch(_study(), "nonsense", "data")


def _result(
    checkpoint: str, train: str, lr: float, selection: float, dev: dict[str, float], task: str = "ner"
) -> tuple[Job, dict[str, Any]]:
    config = FinetuneJob(
        task=task,
        train_language=train,
        eval_languages=tuple(dev),
        seed=0,
        epochs=1,
        batch_size=8,
        learning_rate=lr,
        max_length=8,
        max_examples=None,
    )
    labels = {"checkpoint": checkpoint, "task": task, "train_language": train, "setting": "within,zero_shot"}
    scores = {
        "dev": {name: {"f1": value} for name, value in dev.items()},
        "test": {name: {"f1": 999.0} for name in dev},
    }
    return Job("finetune", f"{checkpoint}{train}{lr}{task}", config, (), labels), {
        "selection": selection,
        "scores": scores,
    }


def test_objectives_are_chosen_on_the_training_languages_dev_set() -> None:
    results = [
        _result("m", "aa", 1e-3, 50.0, {"aa": 50.0, "bb": 90.0}),
        _result("m", "aa", 1e-4, 60.0, {"aa": 60.0, "bb": 20.0}),  # chosen: the better on aa, though worse on bb
        _result("m", "bb", 1e-3, 30.0, {"bb": 30.0}),
        _result("m", "aa", 1e-3, 80.0, {"aa": 80.0, "bb": 10.0}, task="pos"),
    ]
    names = {"within/mean": "max", "zero_shot/mean": "max", "zero_shot/pos": "max"}
    assert objectives(names, results) == {
        "within/mean": pytest.approx((60 + 30 + 80) / 3),
        "zero_shot/mean": pytest.approx((20 + 10) / 2),
        "zero_shot/pos": pytest.approx(10),
    }
    assert objectives({"zero_shot/mean": "max"}, [results[2]]) is None


@pytest.mark.parametrize(
    ("path", "distribution"),
    [
        ("model.adapter_ratio", {"choice": [0.0625, 0.125]}),
        ("meta.inner_lr", {"loguniform": [1e-4, 1]}),
        ("pretrain.temperature", {"uniform": [2, 5]}),
    ],
)
def test_own_values_outside_the_space_are_not_tried(tmp_path: Path, path: str, distribution: dict[str, Any]) -> None:
    search = TrialSearch(_study(space={path: distribution}), f"sqlite:///{tmp_path}/trials.db", "data")
    asked = search.ask()
    assert asked is not None
    (drawn,) = asked[1].values()
    (values,) = distribution.values()
    assert min(values) <= drawn <= max(values)
