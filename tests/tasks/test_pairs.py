from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.tasks.columns import LONGEST_LINE
from raylab.tasks.pairs import LABELS, Pair, read_pairs

XNLI = "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 "
XNLI += (
    "sentence2 promptID pairID genre label1 label2 label3 label4 label5 sentence1_tokenized sentence2_tokenized match"
)
SIDES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"), max_size=8)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def xnli_row(language: str, label: str, premise: str, hypothesis: str) -> str:
    values = dict.fromkeys(XNLI.split(), "x")
    values |= {"language": language, "gold_label": label, "sentence1": premise, "sentence2": hypothesis}
    return "\t".join(values.values()) + "\n"


def test_reads_one_language_of_xnlis_file(tmp_path: Path) -> None:
    content = XNLI.replace(" ", "\t") + "\n"
    content += xnli_row("ar", "neutral", 'a "b"', "c") + xnli_row("sw", "entailment", "d", "e")
    content += xnli_row("ar", "contradiction", '"f"', "")
    path = write(tmp_path, content)
    assert read_pairs(Labelled(path, "ar")) == [Pair('a "b"', "c", "neutral"), Pair('"f"', "", "contradiction")]
    assert len(read_pairs(path)) == 3
    with pytest.raises(InputError, match="holds no pair of language 'te' with a label"):
        read_pairs(Labelled(path, "te"))


@pytest.mark.parametrize(
    "content",
    [
        "sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\tcontradiction\n",
        "premise\thypo\tlabel\r\na\tb\tneutral\r\nc\td\tcontradictory\r\n",
        "a\tb\tneutral\r\n\r\nc\td\tcontradiction",
        '{"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}\n'
        '{"sentence1": "c", "sentence2": "d", "gold_label": "contradiction"}\n',
        '{"premise": "a", "hypothesis": "b", "label": 1}\n{"premise": "c", "hypothesis": "d", "label": 2}\n',
    ],
)
def test_formats_say_the_same(tmp_path: Path, content: str) -> None:
    assert read_pairs(write(tmp_path, content)) == [Pair("a", "b", "neutral"), Pair("c", "d", "contradiction")]


@given(st.lists(st.tuples(SIDES, SIDES, st.sampled_from(LABELS)), min_size=1, max_size=5))
@example([("premise", "label", "neutral")])
@example([("{", '"', "neutral")])
def test_what_pythons_csv_writes_is_read(pairs: list[tuple[str, str, str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter="\t").writerows(pairs)
    with TemporaryDirectory() as folder:
        assert read_pairs(write(Path(folder), stream.getvalue())) == [Pair(*pair) for pair in pairs]


@given(st.lists(st.tuples(SIDES, SIDES, st.sampled_from([*LABELS, "-"])), min_size=1, max_size=8))
def test_pairs_without_majority_are_left_out_and_counted(pairs: list[tuple[str, str, str]]) -> None:
    content = "".join(
        json.dumps({"sentence1": premise, "sentence2": hypothesis, "gold_label": label}) + "\n"
        for premise, hypothesis, label in pairs
    )
    kept = [pair for pair in pairs if pair[2] != "-"]
    with TemporaryDirectory() as folder:
        path = write(Path(folder), content)
        if not kept:
            with pytest.raises(InputError, match="holds no pair with a label"):
                read_pairs(path)
            return
        found = read_pairs(path)
    assert [pair[:3] for pair in found] == kept
    assert sum(pair.left_out for pair in found) == len(pairs) - len(kept)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("a\tb\tneutral\nc\td\n", 2, "2 columns, not 3"),
        ("a\tb\n", 1, "2 columns, not 3"),
        ("a\tb\tneutr", 1, "bad label 'neutr'"),
        ("a\tb\t\n", 1, "bad label ''"),
        ("sentence1\tsentence2\tgold_label\na\tb\tc\tneutral\n", 2, "4 columns, not 3"),
        ("sentence1\tsentence2\na\tb\n", 1, "no column gold_label or label among sentence1, sentence2"),
        ("a\tb\tneutral\n" + "c" * (LONGEST_LINE + 1), 2, "longer than"),
        (b"a\tb\tneutral\nc\xff\td\tneutral\n", 2, "not UTF-8"),
        ('{"sentence1": "a", "sentence2": "b", "gold_la', 1, "not JSON"),
        ('{"a": ' + "[" * 100_000, 1, "not JSON"),
        ('{"premise": "a", "hypothesis": "b", "label": 1}\n[]\n', 2, "not a JSON object"),
        ('{"premise": "a", "hypothesis": "b", "label": 3}\n', 1, "bad label '3'"),
        ('{"premise": "a", "hypothesis": "b"}\n', 1, "gold_label or label is 'None'"),
        ('{"premise": "a", "hypothesis": 4, "label": 1}\n', 1, "sentence2 or hypothesis or hypo is '4'"),
        ('{"premise": "\\ud800", "hypothesis": "b", "label": 1}\n', 1, "half a character"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str | bytes, line: int, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_pairs(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_one_file_of_many_languages_must_name_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no column language"):
        read_pairs(Labelled(write(tmp_path, "a\tb\tneutral\n"), "en"))
    with pytest.raises(InputError, match="no column language among"):
        read_pairs(Labelled(write(tmp_path, "sentence1\tsentence2\tgold_label\n"), "en"))


@pytest.mark.parametrize("content", ["", "\n", "sentence1\tsentence2\tgold_label\n", "a\tb\t-\n"])
def test_file_without_pairs_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="holds no pair with a label"):
        read_pairs(write(tmp_path, content))
