"""The demo's data: real scripts, gold annotation right by construction, and tasks that words alone do not solve."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from seqeval.metrics import f1_score

from raylab.data.demo import LANGUAGES, write_demo
from raylab.data.demo.grammar import words_of
from raylab.data.demo.lexicon import fill, parse_form, read_lexicon
from raylab.tasks import get_task

SCRIPTS = {"en": "LATIN", "fr": "LATIN", "sw": "LATIN", "ru": "CYRILLIC", "ar": "ARABIC"} | {
    "hi": "DEVANAGARI",
    "mr": "DEVANAGARI",
    "te": "TELUGU",
    "kn": "KANNADA",
}
PROPORTIONS = {"en": 44.6, "fr": 16.2, "ru": 13.1, "ar": 8.7, "hi": 0.5, "sw": 0.2, "te": 0.3, "mr": 0.3, "kn": 0.3}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    write_demo(root, scale=1e-4)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_text(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "same", scale=1e-4)
    write_demo(tmp_path / "other", scale=1e-4, seed=1)
    same, other, first = _files(tmp_path / "same"), _files(tmp_path / "other"), _files(demo)
    assert same == first
    assert other.keys() == first.keys()
    assert all(other[name] != first[name] for name in first)


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_many_and_in_the_languages_own_script(language: str) -> None:
    words = words_of(language)
    assert len(words) >= 150
    for word in words:
        letters = [letter for letter in word if unicodedata.category(letter)[0] == "L"]
        assert letters, word
        assert all(unicodedata.name(letter).startswith(SCRIPTS[language]) for letter in letters), word
        assert unicodedata.normalize("NFC", word) == word


def test_all_lexicons_hold_the_same_concepts() -> None:
    concepts = {language: set(read_lexicon(language)) for language in LANGUAGES}
    grammatical = {"the", "that", "is"}  # not every language has such a word
    assert all(concepts[language] - grammatical == concepts["en"] - grammatical for language in LANGUAGES)


def test_corpora_have_the_proportions_of_table_1(demo: Path) -> None:
    sizes = {language: len(_lines(demo / "text" / language / "train.txt")) for language in LANGUAGES}
    assert sizes == {language: round(100 * millions) for language, millions in PROPORTIONS.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_validation_text_is_apart(demo: Path, language: str) -> None:
    train, valid = (_lines(demo / "text" / language / f"{split}.txt") for split in ("train", "valid"))
    assert len(set(valid)) == len(valid) == 300
    assert not set(train) & set(valid)


def test_corpora_are_not_translations_of_each_other(demo: Path) -> None:
    years = {
        language: [
            word
            for line in _lines(demo / "text" / language / "train.txt")
            for word in line.split()
            if word[:4].isdigit()
        ]
        for language in ("fr", "ru")
    }
    assert years["fr"][:20] != years["ru"][:20]


@pytest.mark.parametrize("task", ["ner", "pos"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_words_alone_do_not_solve_a_tagging_task(demo: Path, task: str, language: str) -> None:
    read = get_task(task).read
    suffix = "conll" if task == "ner" else "conllu"
    train, test = (read(demo / task / language / f"{split}.{suffix}") for split in ("train", "test"))
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            seen[word][tag] += 1
    common = Counter(tag for sentence in train for tag in sentence.tags).most_common(1)[0][0]
    gold = [list(sentence.tags) for sentence in test]
    by_word = [
        [seen[word].most_common(1)[0][0] if word in seen else common for word in sentence.words] for sentence in test
    ]
    correct = sum(a == b for g, p in zip(gold, by_word, strict=True) for a, b in zip(g, p, strict=True))
    if task == "ner":
        assert {tag for tags in gold for tag in tags} == {"O", "B-PER", "I-PER", "B-LOC", "B-ORG", "I-ORG"} | (
            {"I-LOC"} & {tag for tags in gold for tag in tags}
        )
        assert 30 < 100 * f1_score(gold, by_word) < 90
    else:
        assert 0.6 < correct / sum(map(len, gold)) < 0.97


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_stand_where_they_are_said_to(demo: Path, language: str) -> None:
    for split, size in (("train", 400), ("dev", 150), ("test", 200)):
        content = json.loads((demo / "qa" / language / f"{split}.json").read_text(encoding="utf-8"))
        paragraphs = content["data"][0]["paragraphs"]
        assert len(paragraphs) == size
        for paragraph in paragraphs:
            (question,) = paragraph["qas"]
            (answer,) = question["answers"]
            start = answer["answer_start"]
            assert answer["text"]
            assert paragraph["context"][start : start + len(answer["text"])] == answer["text"]


def test_inference_pairs_are_balanced_and_training_is_english_only(demo: Path) -> None:
    assert [path.parent.name for path in demo.glob("nli/*/train.tsv")] == ["en"]
    for path in demo.glob("nli/*/*.tsv"):
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        counts = Counter(row["gold_label"] for row in rows)
        assert set(counts) == {"entailment", "contradiction", "neutral"}
        assert max(counts.values()) - min(counts.values()) <= 1
        assert all(row["sentence1"] != row["sentence2"] for row in rows)


def test_forms_hold_tokens_with_their_own_part_of_speech() -> None:
    assert [tuple(token) for token in parse_form("in/ADP the/DET school", "NOUN")] == [
        ("in", "ADP", ""),
        ("the", "DET", ""),
        ("school", "NOUN", ""),
    ]
    name = parse_form("Anna Khan", "PROPN", "PER")
    assert [token.word for token in fill("with/ADP {nom}to", "ADP", "nom", name)] == ["with", "Anna", "Khanto"]
    assert [token.entity for token in fill("{nom} Bank", "PROPN", "nom", name)] == ["PER", "PER", ""]
