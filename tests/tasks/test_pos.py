from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.errors import InputError
from raylab.tasks.pos import UNIVERSAL_TAGS, read_conllu

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1, max_size=5)
SENTENCES = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(sorted(UNIVERSAL_TAGS))), min_size=1, max_size=6), min_size=1, max_size=5
)


def line(identifier: int | str, word: str, tag: str) -> str:
    return f"{identifier}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n"


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "train.conllu"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_text(content: str | bytes) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    with TemporaryDirectory() as folder:
        return [(words, tags) for words, tags, _ in read_conllu(write(Path(folder), content))]


def test_comments_multiword_tokens_and_empty_nodes_are_left_out() -> None:
    content = (
        "# text = du pain\n"
        + line("1-2", "du", "_")
        + line(1, "de", "ADP")
        + line(2, "le", "DET")
        + line("2.1", "mange", "VERB")
        + line(3, "pain", "NOUN")
        + "\n# newdoc\n\n"
        + line(1, "8 000", "NUM")
    )
    assert read_text(content) == [(("de", "le", "pain"), ("ADP", "DET", "NOUN")), (("8 000",), ("NUM",))]


def test_words_and_tags_in_two_columns_are_read() -> None:
    assert read_text("#\tSYM\ndu\tDET\n\npain\tNOUN\n") == [(("#", "du"), ("SYM", "DET")), (("pain",), ("NOUN",))]


@given(SENTENCES)
def test_what_is_written_is_read(sentences: list[list[tuple[str, str]]]) -> None:
    content = "\n".join(
        "".join(line(number, word, tag) for number, (word, tag) in enumerate(sentence, start=1))
        for sentence in sentences
    )
    assert read_text(content) == [
        (tuple(word for word, _ in sentence), tuple(tag for _, tag in sentence)) for sentence in sentences
    ]


@given(st.one_of(st.binary(max_size=60), st.text("12-.\t\n\r#NOUN_X", max_size=60).map(str.encode)))
def test_any_bytes_give_sentences_or_an_input_error(content: bytes) -> None:
    try:
        sentences = read_text(content)
    except InputError:
        return
    assert sentences
    assert all(words and len(words) == len(tags) for words, tags in sentences)


@pytest.mark.parametrize(
    ("content", "number", "says"),
    [
        ("du\tDET\npain\n", 2, "1 column, not 2"),
        ("du\tART\n", 1, "bad tag 'ART' in column 2"),
        ("# c\n1\tde\t_\tADP\n", 2, "4 columns, not 10"),
        (line(1, "de", "ADP") + line(3, "le", "DET"), 2, "word id '3'; the next word should be 2"),
        (line("one", "de", "ADP"), 1, "word id 'one'"),
        (line(1, "de", "IN"), 1, "bad tag 'IN' in column 4"),
        (line(1, "de", "_"), 1, "bad tag '_'"),
        (line(1, "", "ADP"), 1, "column 2 is empty"),
        (b"\n" + line(1, "de", "ADP").encode() + b"# \xe9\n", 3, "not UTF-8"),
        ((line(1, "de", "ADP") + line(2, "le", "DET"))[:-12], 2, "columns, not 10"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str | bytes, number: int, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_conllu(path)
    assert str(error.value).startswith(f"{path}:{number}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "# only a comment\n\n"])
def test_file_without_sentences_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="holds no sentence"):
        read_conllu(write(tmp_path, content))


@pytest.mark.parametrize("language", ["ar", "mr", "ru", "te"])
def test_reads_real_data(kit: Path, language: str) -> None:
    path = kit / "pos" / language / "dev.conllu"
    sentences = read_conllu(path)
    first_columns = [raw.split("\t")[0] for raw in path.read_text(encoding="utf-8").split("\n")]
    assert sum(len(sentence.words) for sentence in sentences) == sum(column.isdigit() for column in first_columns)
    assert len(sentences) == first_columns.count("1")
