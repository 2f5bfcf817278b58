from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from raylab.config import DataConfig
from raylab.data.labelled import Datasets, Labelled, find_datasets
from raylab.data.source import Source, open_source
from raylab.errors import InputError
from raylab.tasks import get_task

TRAIN, DEV = "tydiqa/tydiqa-goldp-v1.1-train", "tydiqa/tydiqa-goldp-v1.1-dev"


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def squad(name: str, articles: int, *, answers: bool = True, titles: bool = True) -> str:
    """Articles of two questions each; without answers as XTREME's script leaves test sets."""
    data = []
    for article in range(articles):
        context = f"Context {article} of {name}."
        qas = [
            {
                "id": f"{name}-{article}-{number}",
                "question": "Which?",
                "answers": [{"text": f"{article}", "answer_start": 8} if answers else {"text": "", "answer_start": 0}],
            }
            for number in range(2)
        ]
        data.append({"paragraphs": [{"context": context, "qas": qas}], **({"title": f"T{article}"} if titles else {})})
    return json.dumps({"version": "1.1", "data": data})


def contents(datasets: Datasets, task: str) -> dict[str, set[str]]:
    """What each split holds, an example as text."""
    return {split: {str(found) for found in get_task(task).read(one)} for split, one in datasets.splits.items()}


def test_own_layout_has_one_file_a_split(tmp_path: Path) -> None:
    write(tmp_path / "qa" / "en" / "train.json", "")
    write(tmp_path / "qa" / "en" / "test.json.gz", "")
    write(tmp_path / "tydiqa" / "ignored", "")
    found = find_datasets(tmp_path, "qa", "en")
    folder = tmp_path / "qa" / "en"
    assert found == Datasets({"train": Labelled(folder / "train.json"), "test": Labelled(folder / "test.json.gz")})
    write(tmp_path / "qa" / "en" / "train.json.gz", "")
    with pytest.raises(InputError, match=r"train\.json and train\.json\.gz both claim to be the train split"):
        find_datasets(tmp_path, "qa", "en")


def test_xnlis_file_of_all_languages_serves_each(tmp_path: Path) -> None:
    header = "language\tgold_label\tsentence1\tsentence2\n"
    write(tmp_path / "nli" / "xnli.dev.tsv", header + "sw\tneutral\ta\tb\nar\tentailment\tc\td\n")
    write(tmp_path / "nli" / "en" / "train.tsv", "e\tf\tneutral\n")
    write(tmp_path / "nli" / "en" / "dev.tsv", "g\th\tneutral\n")
    found = find_datasets(tmp_path, "nli", "sw")
    assert list(found.splits) == ["dev"]
    assert [pair.premise for pair in get_task("nli").read(found.splits["dev"])] == ["a"]
    assert find_datasets(tmp_path, "nli", "te") == Datasets()
    assert find_datasets(tmp_path, "nli", "en").splits["dev"] == Labelled(tmp_path / "nli" / "en" / "dev.tsv")


@pytest.mark.parametrize(
    ("task", "folder", "labelled", "withheld"),
    [
        ("ner", "panx", "w{}\tB-PER\n\n", "w{}\n\n"),
        ("pos", "udpos", "w{}\tNOUN\n\n", "w{}\n\n"),
        ("nli", "xnli", 'p{}\t"h ""q"""\tneutral\r\n', "p{}\th\r\n"),
    ],
)
def test_xtremes_test_set_without_labels_gives_way_to_half_of_dev(
    tmp_path: Path, task: str, folder: str, labelled: str, withheld: str
) -> None:
    for split in ("train", "dev", "test"):
        row = withheld if split == "test" else labelled
        write(tmp_path / folder / f"{split}-en.tsv", "".join(row.format(f"{split}{n}") for n in range(60)))
    found = find_datasets(tmp_path, task, "en")
    held = contents(found, task)
    assert len(held["train"]) == 60
    assert (
        held["dev"] | held["test"]
        == contents(Datasets({"all": Labelled(tmp_path / folder / "dev-en.tsv")}), task)["all"]
    )
    assert not held["dev"] & held["test"]
    assert 15 < len(held["dev"]) < 45
    assert len(found.notes) == 1
    assert "test-en.tsv holds no labels: half of dev-en.tsv" in found.notes[0]

    write(tmp_path / folder / "test-en.tsv", "".join(labelled.format(f"test{n}") for n in range(60)))
    found = find_datasets(tmp_path, task, "en")
    assert found.notes == ()
    assert {split: len(one) for split, one in contents(found, task).items()} == {"train": 60, "dev": 60, "test": 60}
    assert find_datasets(tmp_path, task, "sw") == Datasets()


def test_half_of_xnlis_dev_is_the_same_pairs_in_all_languages(tmp_path: Path) -> None:
    for language in ("en", "ar"):
        rows = (f"{language} premise {number // 3}\t{number}\tneutral\r\n" for number in range(90))
        write(tmp_path / "xnli" / f"dev-{language}.tsv", "".join(rows))
        write(tmp_path / "xnli" / f"test-{language}.tsv", "a\tb\r\n")
    english, arabic = (
        {
            split: {pair.hypothesis for pair in get_task("nli").read(dataset)}
            for split, dataset in find_datasets(tmp_path, "nli", language).splits.items()
        }
        for language in ("en", "ar")
    )
    assert english == arabic
    assert {len(english[split]) % 3 for split in ("dev", "test")} == {0}  # no premise is in both
    assert english["dev"] | english["test"] == {str(number) for number in range(90)}


def test_xtremes_test_set_without_labels_or_dev_is_none(tmp_path: Path) -> None:
    write(tmp_path / "udpos" / "test-yo.tsv", "w\n\n")
    found = find_datasets(tmp_path, "pos", "yo")
    assert found.splits == {}
    assert found.notes == (f"{tmp_path / 'udpos' / 'test-yo.tsv'} holds no labels",)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("answers", [True, False])
def test_tydiqa_takes_dev_from_train_by_article(tmp_path: Path, whole: bool, answers: bool) -> None:
    english, arabic = (json.loads(squad(name, 60)) for name in ("english", "arabic"))
    if whole:
        both = json.dumps({"version": "1.1", "data": english["data"] + arabic["data"]})
        write(tmp_path / TRAIN / "tydiqa-goldp-v1.1-train.json", both)
    write(tmp_path / TRAIN / "tydiqa.goldp.ar.train.json", json.dumps(arabic))
    write(tmp_path / DEV / "tydiqa.goldp.ar.dev.json", squad("dev", 5, answers=answers, titles=False))
    found = find_datasets(tmp_path, "qa", "ar")
    held = contents(found, "qa")
    assert {split for split in held if held[split]} == {"train", "dev", "test"}
    assert not held["train"] & held["dev"]
    assert all("arabic" in one for one in held["train"] | held["dev"])
    if answers:
        assert len(held["test"]) == 10
        assert len(held["train"] | held["dev"]) == 120
        assert "dev is a tenth of its training articles" in found.notes[0]
    else:
        assert len(held["train"] | held["dev"] | held["test"]) == 120
        assert "holds no answers: dev and test are a tenth each" in found.notes[0]
    assert len(held["dev"]) < 40
    articles = {
        split: {question.article for question in get_task("qa").read(one)} for split, one in found.splits.items()
    }
    assert not articles["train"] & articles["dev"]
    assert find_datasets(tmp_path, "qa", "es") == Datasets()


def test_xquad_is_tested_on_squad_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "squad" / "train-v1.1.json", squad("squad", 60))
    write(tmp_path / "squad" / "dev-v1.1.json", squad("squad-dev", 3))
    for language in ("en", "es"):
        write(tmp_path / "xquad" / f"xquad.{language}.json", squad(f"xquad-{language}", 60))
    english, spanish = (find_datasets(tmp_path, "qa", language) for language in ("en", "es"))
    held = contents(english, "qa")
    assert len(held["train"] | held["dev"]) == 120
    assert not held["train"] & held["dev"]
    assert not any("squad-dev" in one for one in held["dev"])  # it holds XQuAD's questions
    assert list(spanish.splits) == ["test", "dev"]
    target = contents(spanish, "qa")
    assert len(target["dev"] | target["test"]) == 120
    assert not target["dev"] & target["test"]
    assert {one.replace("xquad-en", "xquad-es") for one in held["test"]} == target["test"]  # the same articles

    write(tmp_path / "xquad" / "xquad.es.json", squad("xquad-es", 60, answers=False, titles=False))
    spanish = find_datasets(tmp_path, "qa", "es")
    assert spanish.splits == {}
    assert "holds no answers" in spanish.notes[0]


def test_a_test_set_with_answers_goes_before_one_without(tmp_path: Path) -> None:
    write(tmp_path / TRAIN / "tydiqa.goldp.ar.train.json", squad("arabic", 60))
    write(tmp_path / DEV / "tydiqa.goldp.ar.dev.json", squad("dev", 5, answers=False))
    write(tmp_path / DEV / "tydiqa-goldp-dev-arabic.json", squad("dev", 5))
    found = find_datasets(tmp_path, "qa", "ar").splits["test"]
    assert found == Labelled(tmp_path / DEV / "tydiqa-goldp-dev-arabic.json")


def test_xquads_articles_are_split_as_documented(kit: Path) -> None:
    folder = kit / "qa" / "ar"
    questions = [found for split in ("train", "dev", "test") for found in get_task("qa").read(folder / f"{split}.json")]
    test = Labelled(folder, tenths=(1, 10)).share(questions, lambda question: question.article)
    assert len({question.article for question in questions}) == 48
    assert (len({question.article for question in test}), len(test)) == (39, 979)


def test_tydiqa_goes_before_xquad(tmp_path: Path) -> None:
    write(tmp_path / "squad" / "train-v1.1.json", squad("squad", 3))
    write(tmp_path / TRAIN / "tydiqa-goldp-v1.1-train.json", squad("english", 3))
    assert find_datasets(tmp_path, "qa", "en").splits["train"].path.parent == tmp_path / TRAIN


def test_fingerprint_follows_contents_and_part_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "x", "same")
    first, second = (Labelled(tmp_path / folder / "x") for folder in ("a", "b"))
    assert first.fingerprint() == second.fingerprint()
    parts = [first, Labelled(first.path, "en"), Labelled(first.path, "ar"), Labelled(first.path, None, (0, 5))]
    assert len({part.fingerprint() for part in parts}) == 4
    assert len(set(pickle.loads(pickle.dumps(parts)))) == 4
    write(second.path, "other")
    assert first.fingerprint() != second.fingerprint()


def test_empty_share_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert Labelled(path).share(["a"], str) == ["a"]
    everything = [str(number) for number in range(50)]
    tenths = [Labelled(path, tenths=(tenth, tenth + 1)).share(everything, str) for tenth in range(10)]
    assert sorted((one for tenth in tenths for one in tenth), key=int) == everything
    with pytest.raises(InputError, match="x: none of its 1 examples falls into tenths 0 to 1"):
        Labelled(path, tenths=(0, 1)).share(tenths[5][:1], str)


def test_source_reads_labelled_data_from_another_folder(tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "text" / "en" / "train.txt", "a\n")
    write(tmp_path / "xtreme" / "panx" / "dev-en.tsv", "a\tO\n")
    write(tmp_path / "xtreme" / "panx" / "test-en.tsv", "a\n")
    source = Source(tmp_path / "corpus", tmp_path / "xtreme")
    assert source.dataset("ner", "en", "dev") == Labelled(tmp_path / "xtreme" / "panx" / "dev-en.tsv", tenths=(0, 5))
    assert "holds no labels" in source.dataset_notes("ner", "en")[0]
    assert Source(tmp_path / "corpus").dataset("ner", "en", "dev") is None
    assert source.dataset_fingerprint("ner", "en", ("dev",)) != source.dataset_fingerprint("ner", "en", ("test",))


def test_demo_has_all_tasks(tmp_path: Path) -> None:
    source = open_source(DataConfig(demo_scale=1e-5), tmp_path)
    for task in ("ner", "pos", "qa", "nli"):
        for split in ("train", "dev", "test"):
            dataset = source.dataset(task, "en", split)
            assert dataset is not None
            assert len(get_task(task).read(dataset)) >= 150
