"""Checkpoints that a finetuning job leaves, and predictions with them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from finetune_run import Start, complete
from made_up_language import NAMES, OTHERS

from raylab.errors import InputError
from raylab.model import load_encoder
from raylab.tasks import get_task
from raylab.tasks.token_classification import Sentence
from raylab.train.finetune import PREDICTIONS_FILE
from raylab.train.task_model import HEAD_FILE, TASK_FILE, load_finetuned


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folders(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if (path / TASK_FILE).is_file())


@pytest.mark.parametrize(
    ("checkpoints", "there"), [("none", []), ("best", ["best"]), ("all", ["epochs/01", "epochs/02", "epochs/03"])]
)
def test_a_job_keeps_the_checkpoints_that_it_is_asked_for(
    start: Start, tmp_path: Path, checkpoints: str, there: list[str]
) -> None:
    run = start(checkpoints=checkpoints)
    complete(run)
    run.finish(tmp_path)
    assert folders(tmp_path) == there


@pytest.mark.parametrize("task", ["ner", "pos", "qa", "nli"])
def test_a_checkpoint_predicts_what_the_job_did(start: Start, world: Path, tmp_path: Path, task: str) -> None:
    run = start(task=task, epochs=2, eval_languages=("aa", "bb"), checkpoints="best", stride=4)
    complete(run)
    run.finish(tmp_path)
    model = load_finetuned(tmp_path / "best")
    for language in ("aa", "bb"):
        examples = get_task(task).read(world / f"{task}.{language}.test")
        filters = [("split", "==", "test"), ("language", "==", language)]
        expected = pq.read_table(tmp_path / PREDICTIONS_FILE, filters=filters)["predicted"].to_pylist()
        assert model.predict(examples, language) == expected


def test_each_epoch_can_be_opened_and_scores_what_it_did(start: Start, world: Path, tmp_path: Path) -> None:
    run = start(task="pos", epochs=3, learning_rate=5e-4, checkpoints="all")
    scores = [m.value for m in complete(run) if m.name == "epoch/dev/f1"]
    task, dev = get_task("pos"), world / "pos.aa.dev"
    assert len(set(scores)) > 1
    for epoch, score in enumerate(scores, start=1):
        folder = tmp_path / "epochs" / f"{epoch:02}"
        examples = task.read(dev)
        predicted = load_finetuned(folder).predict(examples, "aa")
        assert task.score([list(example.tags) for example in examples], predicted, "aa")["f1"] == score
        about = json.loads((folder / TASK_FILE).read_text())
        assert (about["task"], about["train_language"], about["epoch"]) == ("pos", "aa", epoch)
        assert about["dev"] == {"f1": score}
        assert load_encoder(folder).languages == ("aa", "bb")  # it is an encoder's folder, too


def test_text_without_tags_is_tagged(start: Start, tmp_path: Path) -> None:
    run = start(task="pos", epochs=8, checkpoints="best")
    complete(run)
    run.finish(tmp_path)
    words = (NAMES[0], OTHERS[0], NAMES[1])
    predicted = load_finetuned(tmp_path / "best").predict([Sentence(words, ("X",) * 3)], "aa")
    assert predicted == [["NOUN", "VERB", "NOUN"]]


def test_two_processes_may_finish_one_job_at_once(start: Start, tmp_path: Path) -> None:
    runs = [start(checkpoints="best", epochs=1, folder=tmp_path) for _ in range(3)]  # as of studies that share it
    for run in runs:
        complete(run)
    runs[0].finish(tmp_path)
    expected = files(tmp_path)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(run.finish, tmp_path) for _ in range(8) for run in runs[1:]]:
            done.result()
    assert files(tmp_path) == expected
    load_finetuned(tmp_path / "best")


@pytest.mark.parametrize("checkpoints", ["best", "all"])
def test_a_run_that_was_killed_leaves_equal_files(start: Start, tmp_path: Path, checkpoints: str) -> None:
    whole, killed, resumed = (
        start(checkpoints=checkpoints, folder=tmp_path / name) for name in ("whole", "other", "other")
    )
    complete(whole)
    before = [measurement for _ in range(5) for measurement in killed.advance(0.0)]
    state = killed.state()
    complete(killed)  # beyond its last state: checkpoints of later epochs are there
    half = tmp_path / "other" / {"best": ".best.1", "all": "epochs/.03.1"}[checkpoints]
    half.mkdir(parents=True)  # as a process leaves it that is killed while it writes
    (half / HEAD_FILE).write_bytes(b"half")
    if checkpoints == "all":
        (tmp_path / "other" / "epochs" / "03" / HEAD_FILE).write_bytes(b"of another version")
    resumed.load_state(state)
    assert before + complete(resumed)
    assert resumed.finish(tmp_path / "other") == whole.finish(tmp_path / "whole")
    assert files(tmp_path / "other") == files(tmp_path / "whole")
    assert folders(tmp_path / "whole")


def test_an_external_encoder_is_finetuned_and_kept(start: Start, world: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: None for line in (world / "pos.aa.train").read_text().splitlines() for word in line.split("\t")[1:2]}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    prepared = tmp_path / "prepared"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(prepared / "tokenizer")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=40, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(prepared / "model")

    run = start(
        task="pos", epochs=3, encoder_folder=prepared / "model", prepared_folder=prepared, checkpoints="best", stride=0
    )
    complete(run)
    assert run.finish(tmp_path)["scores"]["test"]["aa"]["accuracy"] > 95
    predicted = load_finetuned(tmp_path / "best").predict(get_task("pos").read(world / "pos.aa.test"), "aa")
    rows = pq.read_table(tmp_path / PREDICTIONS_FILE, filters=[("split", "==", "test")])
    assert predicted == rows["predicted"].to_pylist()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TASK_FILE, None, "no such file; `best` and `epochs/NN` of a finetuning job hold it"),
        (TASK_FILE, b"{", "not written by a finetuning job"),
        (TASK_FILE, b"[]", "not written by a finetuning job"),
        (TASK_FILE, b'{"task": "ner"}', "not written by a finetuning job"),
        (TASK_FILE, b'{"task": "parsing"}', "no task 'parsing'"),
        (HEAD_FILE, None, "not the head of this model"),
        (HEAD_FILE, b"no tensors", "not the head of this model"),
        ("tokenizer.model", None, "holds no tokenizer"),
        ("config.json", None, "no such file"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_in_one_line(
    start: Start, tmp_path: Path, kept: Path, name: str, content: Any, message: str
) -> None:
    if not folders(kept):
        run = start(epochs=1, checkpoints="best")
        complete(run)
        run.finish(kept)
    folder = shutil.copytree(kept / "best", tmp_path / "best")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_finetuned(folder)
    assert "\n" not in str(caught.value)
