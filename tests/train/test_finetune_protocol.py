"""The parts of the paper's protocol (Appendix A) that a job chooses: two learning rates, frozen layers, all tasks."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from finetune_run import Start, complete
from made_up_language import NAMES, OTHERS

from raylab.config import ModelConfig
from raylab.data.demo import write_demo
from raylab.data.labelled import Labelled
from raylab.data.tokenizer import train_tokenizer
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.tasks import get_task
from raylab.train.finetune import PREDICTIONS_FILE, FinetuneRun


def moved(run: FinetuneRun) -> dict[str, float]:
    """How far each weight is after training from where it was, at most."""
    before = run.state()["model"]
    complete(run)
    return {name: (weight - before[name]).abs().max().item() for name, weight in run.state()["model"].items()}


def test_head_and_encoder_have_learning_rates_of_their_own(start: Start) -> None:
    still_head = moved(start(epochs=1, head_learning_rate=1e-12))
    still_encoder = moved(start(epochs=1, learning_rate=1e-12, head_learning_rate=5e-3))
    for distance, still in ((still_head, "head."), (still_encoder, "encoder.")):
        assert all(far < 1e-6 for name, far in distance.items() if name.startswith(still))
        assert any(far > 1e-3 for name, far in distance.items() if not name.startswith(still))


def test_both_learning_rates_fall_linearly_to_zero(start: Start) -> None:
    run = start(epochs=1, learning_rate=1e-3, head_learning_rate=1e-2)
    rates = []
    while not run.finished:
        run.advance(0.0)
        rates.append(tuple(group["lr"] for group in run.state()["optimizer"]["param_groups"]))
    assert rates == [pytest.approx((1e-3 * (1 - i / 8), 1e-2 * (1 - i / 8))) for i in range(8)]


def test_a_head_without_a_rate_of_its_own_has_the_encoders(start: Start) -> None:
    assert complete(start(epochs=1)) == complete(start(epochs=1, head_learning_rate=5e-3))


def test_frozen_layers_stay_to_the_bit_and_have_no_place_in_the_optimizer(start: Start) -> None:
    run, free = start(epochs=1, freeze="language_specific"), start(epochs=1)
    distance, free_distance = moved(run), moved(free)
    specific = [name for name in distance if "lang_" in name]
    assert any(free_distance[name] > 0 for name in specific)
    assert all(distance[name] == 0 for name in specific)
    assert all(distance[name] > 0 for name in distance if name not in specific and "output_bias" not in name)
    held = [len(one.state()["optimizer"]["param_groups"][0]["params"]) for one in (run, free)]
    assert held[1] - held[0] == len(specific)


def test_resume_is_exact_with_frozen_layers_and_two_rates(start: Start, tmp_path: Path) -> None:
    changes = {"freeze": "language_specific", "head_learning_rate": 1e-2, "eval_languages": ("aa", "bb")}
    whole, stopped, resumed = (start(**changes) for _ in range(3))
    expected = complete(whole)
    before = [measurement for _ in range(11) for measurement in stopped.advance(0.0)]
    stream = io.BytesIO()
    torch.save(stopped.state(), stream)
    resumed.load_state(torch.load(io.BytesIO(stream.getvalue()), weights_only=False))
    assert before + complete(resumed) == expected
    assert resumed.finish(tmp_path / "a") == whole.finish(tmp_path / "b")


@pytest.mark.parametrize(("task", "metric", "epochs", "least"), [("qa", "f1", 12, 90.0), ("nli", "accuracy", 20, 90.0)])
def test_tasks_on_pairs_of_texts_are_learned(
    start: Start, tmp_path: Path, task: str, metric: str, epochs: int, least: float
) -> None:
    # Contexts are longer than the encoder's 24 positions: each has several windows.
    run = start(task=task, epochs=epochs, stride=4, eval_languages=("aa", "bb"))
    complete(run)
    result = run.finish(tmp_path)
    assert result["scores"]["test"]["aa"][metric] > least
    rows = pq.read_table(tmp_path / PREDICTIONS_FILE).to_pylist()
    assert len(rows) == 120
    for split, by_language in result["scores"].items():
        for language, scores in by_language.items():
            part = [row for row in rows if (row["split"], row["language"]) == (split, language)]
            assert [row["example"] for row in part] == list(range(30))
            gold = [tuple(row["gold"]) if task == "qa" else row["gold"] for row in part]
            assert get_task(task).score(gold, [row["predicted"] for row in part], language) == scores
    if task == "qa":
        assert result["counts"]["train"]["aa"]["windows"] > result["counts"]["train"]["aa"]["questions"]
        assert [row["id"] for row in rows if (row["split"], row["language"]) == ("test", "bb")] == [
            f"q12-{number}" for number in range(30)
        ]
    else:
        assert "id" not in rows[0]


def test_max_examples_counts_questions_not_windows(start: Start) -> None:
    run = start(task="qa", epochs=1, batch_size=1, max_examples=5)
    complete(run)
    steps = run.state()["step"]
    whole = start(task="qa", epochs=1, batch_size=1)
    complete(whole)
    assert 5 < steps == pytest.approx(whole.state()["step"] * 5 / 120, rel=0.3)


def test_a_dataset_may_be_a_part_of_a_file(start: Start, tmp_path: Path) -> None:
    lines = ["language\tgold_label\tsentence1\tsentence2"]
    for language, count in (("aa", 7), ("bb", 5)):
        lines += [f"{language}\tneutral\t{NAMES[i]}\t{OTHERS[i]}" for i in range(count)]
    path = tmp_path / "xnli.test.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = start(
        {(language, "test"): Labelled(path, language) for language in ("aa", "bb")},
        task="nli",
        epochs=1,
        eval_languages=("aa", "bb"),
        features_folder=tmp_path / "features",
    )
    complete(run)
    counts = run.finish(tmp_path)["counts"]["test"]
    assert [counts[language]["pairs"] for language in ("aa", "bb")] == [7, 5]


@pytest.mark.parametrize("task", ["ner", "pos", "qa", "nli"])
def test_an_empty_training_set_is_refused_in_one_line(start: Start, tmp_path: Path, task: str) -> None:
    path = tmp_path / "train"
    path.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=f"^{path}.*") as caught:
        start({("aa", "train"): path}, task=task)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(start: Start, world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no tokenizer; tokenizer.model or tokenizer should be there"):
        start(prepared_folder=tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data, a tokenizer of its English text, and an untrained encoder."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, scale=1e-5, seed=0)
    text = (folder / "text" / "en" / "train.txt").read_text(encoding="utf-8").splitlines()
    train_tokenizer(text, folder / "tokenizer.model", vocab_size=200, character_coverage=1.0)
    config = ModelConfig(num_layers=1, dim=32, num_heads=2, ffn_dim=64, max_length=32)
    torch.manual_seed(0)
    Encoder(config, 200, ("aa",), "mono").save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("task", ["ner", "pos", "qa", "nli"])
def test_the_demos_data_run_from_end_to_end(start: Start, demo: Path, tmp_path: Path, task: str) -> None:
    files = {}
    for split in ("train", "dev", "test"):
        (files["aa", split],) = (demo / task / "en").glob(f"{split}.*")
    run = start(
        files, task=task, epochs=2, stride=8, encoder_folder=demo / "model", prepared_folder=demo, max_examples=200
    )
    complete(run)
    result = run.finish(tmp_path)
    assert set(result["scores"]["test"]["aa"]) == set(get_task(task).metrics)
    assert all(0 <= score <= 100 for score in result["scores"]["test"]["aa"].values())
    table = pq.read_table(tmp_path / PREDICTIONS_FILE)
    assert len(table) == sum(len(get_task(task).read(files["aa", split])) for split in ("dev", "test"))
