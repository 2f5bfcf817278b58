from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from finetune_run import Start, complete
from made_up_language import NAMES, OTHERS, ner_sentences, pos_sentences, write_conll, write_conllu

from raylab.errors import InputError
from raylab.model import Encoder
from raylab.tasks import TASKS
from raylab.train.features import kept_features
from raylab.train.finetune import PREDICTIONS_FILE


@pytest.mark.parametrize("task", ["ner", "pos"])
def test_learnable_problem_is_learned_and_transfers(start: Start, tmp_path: Path, task: str) -> None:
    run = start(task=task, epochs=24, eval_languages=("aa", "bb"))
    complete(run)
    result = run.finish(tmp_path)
    assert result["scores"]["test"]["aa"]["f1"] > 95
    assert result["scores"]["test"]["bb"]["f1"] > 95  # the same words in the same order, through untrained adapters


def test_measures_every_epoch_and_the_loss_falls(start: Start) -> None:
    run = start(task="pos", epochs=4)
    measured = complete(run)
    epochs = [m.step for m in measured if m.name == "epoch/dev/f1"]
    losses = [m for m in measured if m.name == "train/loss"]
    assert epochs == [m.step for m in measured if m.name == "epoch/dev/accuracy"] == [1, 2, 3, 4]
    assert [m.step for m in losses] == [10, 20, 30, 32]  # 8 steps an epoch
    assert losses[-1].value < 0.2 * losses[0].value
    assert run.progress == 1.0
    assert run.advance(1.0) == []


def test_best_epoch_on_dev_is_kept(start: Start, world: Path, tmp_path: Path) -> None:
    # Dev tags are the wrong way round: the better the model learns, the worse it scores.
    contrary = write_conllu(tmp_path / "dev", pos_sentences(1, 30, noun="VERB", verb="NOUN"))
    run = start({("aa", "dev"): contrary}, task="pos", epochs=6, learning_rate=3e-4)
    scores = [m.value for m in complete(run) if m.name == "epoch/dev/f1"]
    result = run.finish(tmp_path / "out")
    assert scores[-1] < max(scores)
    assert result["chosen_epoch"] == 1 + scores.index(max(scores))
    assert result["selection"] == max(scores) == result["scores"]["dev"]["aa"]["f1"]


def test_of_equal_epochs_the_earliest_is_kept(start: Start, tmp_path: Path) -> None:
    run = start(task="pos", epochs=5)
    scores = [m.value for m in complete(run) if m.name == "epoch/dev/f1"]
    assert scores.count(max(scores)) > 1
    assert run.finish(tmp_path)["chosen_epoch"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("steps", [1, 8, 13])  # in the first epoch, at its end, in the second
def test_resume_is_exact(start: Start, tmp_path: Path, steps: int) -> None:
    whole = start(eval_languages=("aa", "bb"))
    expected = complete(whole)

    stopped = start(eval_languages=("aa", "bb"))
    before = [measurement for _ in range(steps) for measurement in stopped.advance(0.0)]
    stream = io.BytesIO()
    state = stopped.state()
    torch.save(state, stream)
    after_stop = complete(stopped)  # going on must not reach into the state that was taken
    resumed = start(eval_languages=("aa", "bb"))
    resumed.load_state(state)
    assert resumed.progress == pytest.approx(steps / 24)
    assert before + complete(resumed) == before + after_stop == expected

    reloaded = start(eval_languages=("aa", "bb"))
    reloaded.load_state(torch.load(io.BytesIO(stream.getvalue()), weights_only=False))
    assert before + complete(reloaded) == expected
    for name, weight in whole.state()["model"].items():
        assert torch.equal(weight, reloaded.state()["model"][name]), name
    assert reloaded.finish(tmp_path / "a") == whole.finish(tmp_path / "b")
    assert (tmp_path / "a" / PREDICTIONS_FILE).read_bytes() == (tmp_path / "b" / PREDICTIONS_FILE).read_bytes()


def test_resume_in_a_run_that_has_gone_further(start: Start) -> None:
    run = start()
    before = run.advance(0.0)
    state = run.state()
    after = complete(run)
    run.load_state(state)
    assert before + complete(run) == before + after


def test_finish_after_resume_at_the_end(start: Start, tmp_path: Path) -> None:
    run = start()
    complete(run)
    resumed = start()
    resumed.load_state(run.state())
    assert resumed.finished
    assert resumed.finish(tmp_path / "a") == run.finish(tmp_path / "b")


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"learning_rate": 1e-4}])
def test_state_of_another_job_is_refused(start: Start, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="another finetuning job"):
        start().load_state(start(**change).state())


def test_epochs_differ_in_order(start: Start, world: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(world / "model")
    config = encoder.config.model_copy(update={"dropout": 0.0})
    Encoder(config, encoder.vocab_size, encoder.languages, encoder.variant).save_pretrained(tmp_path)
    run = start(encoder_folder=tmp_path, max_examples=20, batch_size=1, epochs=2, learning_rate=1e-12)
    losses = [m.value for m in complete(run) if m.name == "train/loss"]  # of half an epoch each, of one fixed model
    assert sum(losses[:2]) == pytest.approx(sum(losses[2:]), abs=1e-5)
    assert losses[0] != pytest.approx(losses[2], abs=1e-5)


def test_padding_changes_no_prediction(start: Start, world: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(world / "model")
    with torch.no_grad():
        for weight in encoder.layers.parameters():
            weight.mul_(20)  # so that what a token attends to decides its tag
    encoder.save_pretrained(tmp_path)
    short = pos_sentences(2, 30)
    long = [[pair for sentence in pos_sentences(3, 2) for pair in sentence]]
    predicted = []
    for name, sentences in (("short", short), ("both", short + long)):
        test = write_conllu(tmp_path / name, sentences)
        run = start({("aa", "test"): test}, encoder_folder=tmp_path, task="pos", epochs=1, learning_rate=1e-6)
        complete(run)
        run.finish(tmp_path)
        rows = pq.read_table(tmp_path / PREDICTIONS_FILE, filters=[("split", "==", "test")])
        predicted.append(rows["predicted"].to_pylist()[:30])
    assert predicted[0] == predicted[1]


def test_seeds_differ(start: Start) -> None:
    first, again, second = (complete(start(seed=seed, epochs=1)) for seed in (0, 0, 1))
    assert first == again != second


@pytest.mark.parametrize("task", ["ner", "pos"])
def test_stored_predictions_give_the_reported_scores(start: Start, tmp_path: Path, task: str) -> None:
    run = start(task=task, epochs=1, eval_languages=("bb", "aa"))
    complete(run)
    result = run.finish(tmp_path)
    table = pq.read_table(tmp_path / PREDICTIONS_FILE)
    assert table.column_names == ["language", "split", "example", "gold", "predicted"]
    rows = table.to_pylist()
    for split, by_language in result["scores"].items():
        assert list(by_language) == ["bb", "aa"]
        for language, scores in by_language.items():
            part = [row for row in rows if (row["split"], row["language"]) == (split, language)]
            assert [row["example"] for row in part] == list(range(30))
            assert (
                TASKS[task].score([row["gold"] for row in part], [row["predicted"] for row in part], language) == scores
            )


def test_every_word_is_scored_and_the_unseen_are_counted(start: Start, tmp_path: Path) -> None:
    long = [(OTHERS[i % len(OTHERS)], "O") for i in range(40)]  # beyond the encoder's 24 positions
    sentences = [[("\u200b", "B-PER"), (NAMES[0], "B-PER")], [*long, (NAMES[1], "B-MISC")]]
    test = write_conll(tmp_path / "test", sentences)
    run = start({("aa", "test"): test}, epochs=1)
    complete(run)
    result = run.finish(tmp_path)
    counts = result["counts"]["test"]["aa"]
    assert (counts["sentences"], counts["words"], counts["dropped_words"], counts["unknown_tags"]) == (2, 43, 1, 1)
    assert 41 - 22 <= counts["cut_words"] < 41
    assert set(result["counts"]) == {"train", "dev", "test"}
    rows = pq.read_table(tmp_path / PREDICTIONS_FILE, filters=[("split", "==", "test")]).to_pylist()
    assert [row["gold"] for row in rows] == [[tag for _, tag in sentence] for sentence in sentences]
    assert rows[0]["predicted"][0] == "O"
    assert rows[1]["predicted"][-1] == "O"


def test_zero_shot_selects_on_the_source_language(start: Start, tmp_path: Path) -> None:
    run = start(epochs=2, eval_languages=("bb",))
    scores = [m.value for m in complete(run) if m.name == "epoch/dev/f1"]
    result = run.finish(tmp_path)
    assert result["selection"] == max(scores)
    assert list(result["scores"]["dev"]) == list(result["scores"]["test"]) == ["bb"]
    source = start(epochs=2, eval_languages=("aa",))
    complete(source)
    assert source.finish(tmp_path)["scores"]["dev"]["aa"]["f1"] == result["selection"]


def test_all_layers_are_trained_but_not_the_other_languages(start: Start) -> None:
    run = start(epochs=1)
    before = run.state()["model"]
    complete(run)
    after = run.state()["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    still = set(before) - moved
    assert still
    assert all("lang_bb" in name or name.endswith("output_bias") for name in still)
    assert any("lang_aa" in name for name in moved)


def test_max_examples_limits_training_alone(start: Start, tmp_path: Path) -> None:
    run = start(max_examples=20, batch_size=4, epochs=2)
    assert [m.step for m in complete(run) if m.name == "train/loss"] == [10]
    counts = run.finish(tmp_path)["counts"]
    assert counts["train"]["aa"]["sentences"] == 120
    assert counts["dev"]["aa"]["sentences"] == 30


def test_datasets_are_tokenized_once_in_a_process(start: Start, world: Path, tmp_path: Path) -> None:
    kept_features.cache_clear()
    start()
    assert kept_features.cache_info().misses == 3
    start(seed=1, eval_languages=("bb",))
    assert kept_features.cache_info().misses == 5  # dev and test of bb
    start(eval_languages=("aa", "bb"))
    assert kept_features.cache_info().misses == 5


def test_progress_in_single_steps(start: Start) -> None:
    run = start(epochs=1)
    shares = []
    while not run.finished:
        run.advance(0.0)
        shares.append(run.progress)
    assert shares == pytest.approx([i / 8 for i in range(1, 9)])


def test_loss_that_is_no_number_stops(start: Start) -> None:
    run = start(learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"step 10 of finetuning ner in aa with learning rate 1e\+30"):
        complete(run)


def test_learning_rate_falls_linearly_to_zero(start: Start) -> None:
    run = start(epochs=1, learning_rate=1e-3)
    rates = []
    while not run.finished:
        run.advance(0.0)
        rates.append(run.state()["optimizer"]["param_groups"][0]["lr"])
    assert rates == pytest.approx([1e-3 * (1 - i / 8) for i in range(8)])


def test_missing_dataset_is_refused(start: Start) -> None:
    with pytest.raises(InputError, match="no ner data for the dev split of 'cc'; ner/cc/dev"):
        start(eval_languages=("cc",))


def test_malformed_dataset_is_refused(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "test"
    path.write_text("word\n", encoding="utf-8")
    with pytest.raises(InputError, match=":1: 1 column"):
        start({("aa", "test"): path})


def test_training_text_without_subwords_is_refused(start: Start, tmp_path: Path) -> None:
    path = write_conll(tmp_path / "train", [[("\u200b", "O")]])
    with pytest.raises(InputError, match=f"{path}: "):
        start({("aa", "train"): path})


def test_sentence_without_subwords_does_not_spoil_the_loss(start: Start, tmp_path: Path) -> None:
    path = write_conll(tmp_path / "train", [*ner_sentences(0, 5), [("\u200b", "O")]])
    losses = [m.value for m in complete(start({("aa", "train"): path}, batch_size=1)) if m.name == "train/loss"]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


def test_finetunes_on_real_data(kit: Path, start: Start, tmp_path: Path) -> None:
    files = {("aa", split): kit / "pos" / "mr" / f"{split}.conllu" for split in ("train", "dev", "test")}
    run = start(files, task="pos", epochs=1)
    complete(run)
    counts = run.finish(tmp_path)["counts"]["test"]["aa"]
    assert counts["sentences"] == 47
