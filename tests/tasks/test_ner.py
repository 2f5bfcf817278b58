from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from raylab.errors import InputError
from raylab.tasks.columns import LONGEST_LINE
from raylab.tasks.ner import read_conll

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-A-B", "I-A-B"]
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\ufeff:"), min_size=1, max_size=5)
SENTENCES = st.lists(st.lists(st.tuples(WORDS, st.sampled_from(TAGS)), min_size=1, max_size=6), min_size=1, max_size=5)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "train.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_text(content: str | bytes) -> list[tuple[tuple[str, ...], tuple[str, ...], int]]:
    with TemporaryDirectory() as folder:
        return [tuple(sentence) for sentence in read_conll(write(Path(folder), content))]


def test_reads_words_and_tags() -> None:
    assert read_text("Anna\tB-PER\nsleeps\tO\n\n\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n") == [
        (("Anna", "sleeps"), ("B-PER", "O"), 0),
        (("in", "New", "York"), ("O", "B-LOC", "I-LOC"), 0),
    ]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfAnna\tO\r\n\r\nBob\tO\r\n", b"Anna\tO\n \t \nBob\tO"])
def test_line_ends_and_byte_order_mark_do_not_count(content: bytes) -> None:
    assert [words for words, _, _ in read_text(content)] == [("Anna",), ("Bob",)]


def test_columns_separated_by_spaces_are_token_first_and_tag_last() -> None:
    content = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n"
    content += "-DOCSTART- -X- -X- O\n\nBonn NNP  I-NP B-LOC\n"
    assert [(words, tags) for words, tags, _ in read_text(content)] == [
        (("EU", "rejects"), ("B-ORG", "O")),
        (("Bonn",), ("B-LOC",)),
    ]
    assert [words for words, _, _ in read_text("a\u00a0b O\nc B-PER\n")] == [("a\u00a0b", "c")]


def test_compressed_file_is_read_as_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "train.conll.gz"
    whole = gzip.compress(b"Anna\tB-PER\n" * 50)
    path.write_bytes(whole)
    assert read_conll(path)[0].words == ("Anna",) * 50
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"train\.conll\.gz: cannot be read"):
        read_conll(path)


def test_words_keep_characters_that_unicode_counts_as_line_ends() -> None:
    assert read_text("a\u2028b\x0b\x85\tO\n") == [(("a\u2028b\x0b\x85",), ("O",), 0)]


def test_wikiann_prefix_is_stripped_from_all_words() -> None:
    assert read_text("zh-yue:a:b\tO\nzh-yue:\tO\n\nzh-yue:c\tO\n") == [
        (("a:b", ""), ("O", "O"), 0),
        (("c",), ("O",), 0),
    ]


@pytest.mark.parametrize("other", ["c", "fr:c", "en c", "EN:c"])
def test_prefix_that_not_all_words_have_is_kept(other: str) -> None:
    assert [words for words, _, _ in read_text(f"en:a\tO\n\n{other}\tO\n")] == [("en:a",), (other,)]


def test_inside_tags_that_continue_nothing_begin_an_entity() -> None:
    tags = ["I-PER", "I-PER", "I-LOC", "O", "I-LOC", "B-PER", "I-LOC"]
    ((_, repaired, count),) = read_text("".join(f"w\t{tag}\n" for tag in tags))
    assert repaired == ("B-PER", "I-PER", "B-LOC", "O", "B-LOC", "B-PER", "B-LOC")
    assert count == 4


@given(SENTENCES)
def test_what_is_written_is_read(sentences: list[list[tuple[str, str]]]) -> None:
    content = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences)
    read = read_text(content)
    assert [list(words) for words, _, _ in read] == [[word for word, _ in sentence] for sentence in sentences]
    for (_, tags, repaired), sentence in zip(read, sentences, strict=True):
        raw = [tag for _, tag in sentence]
        assert get_entities(list(tags)) == get_entities(raw)  # the repair changes no entity
        assert repaired == sum(a != b for a, b in zip(tags, raw, strict=True))


@given(st.one_of(st.binary(max_size=60), st.text("ab\t\n\r-OBI:PER ", max_size=40).map(str.encode)))
def test_any_bytes_give_sentences_or_an_input_error(content: bytes) -> None:
    try:
        sentences = read_text(content)
    except InputError:
        return
    assert sentences
    assert all(words and len(words) == len(tags) for words, tags, _ in sentences)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("a\tO\nb\n", 2, "1 column"),
        ("a\tO\nb O\n", 2, "1 column"),
        ("a O\nb\n", 2, "1 column, not 2"),
        ("a X O\nb O\n", 2, "2 columns, not 3"),
        ("a O\nb X O\n", 2, "3 columns, not 2"),
        ("a\n", 1, "1 column"),
        ("a X\n", 1, "bad tag 'X'"),
        ("a\tX\tO\n", 1, "3 columns"),
        ("a\tO\n\nb\tPER\n", 3, "bad tag 'PER'"),
        ("a\tB-\n", 1, "bad tag 'B-'"),
        ("a\t\n", 1, "bad tag ''"),
        ("a\tO\n" + "b" * (LONGEST_LINE + 1), 2, "longer than"),
        (b"a\tO\nb\xff\tO\n", 2, "not UTF-8"),
        ("a\tB-PER\nb\tB-PE", 2, "cut off"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str | bytes, line: int, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_conll(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "\n\n", " \n"])
def test_file_without_sentences_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match="holds no sentence"):
        read_conll(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_conll(tmp_path / "train.conll")


def test_whole_last_tag_without_line_end_is_no_cut(tmp_path: Path) -> None:
    (sentence,) = read_conll(write(tmp_path, "a\tB-PER\nb\tI-PER"))
    assert sentence.tags == ("B-PER", "I-PER")


@pytest.mark.parametrize("language", ["en", "hi", "sw"])
def test_reads_real_data(kit: Path, language: str) -> None:
    path = kit / "ner" / language / "train.conll"
    sentences = read_conll(path)
    lines = path.read_bytes().split(b"\n")
    assert sum(len(sentence.words) for sentence in sentences) == sum(b"\t" in line for line in lines)
    assert {tag for sentence in sentences for tag in sentence.tags} == {
        "O",
        *(f"{place}-{kind}" for place in "BI" for kind in ("PER", "LOC", "ORG")),
    }
