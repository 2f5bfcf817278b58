from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.tasks import squad
from raylab.tasks.squad import Answer, read_squad

CONTEXT = "Anna lives in Rome. Anna is a baker."


def question(name: Any = "q1", answers: Any = (("Rome", 14),), text: Any = "Where?") -> dict[str, Any]:
    return {"id": name, "question": text, "answers": [{"text": a, "answer_start": s} for a, s in answers]}


def squad_of(*questions: dict[str, Any], context: Any = CONTEXT, title: str | None = None) -> dict[str, Any]:
    article: dict[str, Any] = {"paragraphs": [{"context": context, "qas": list(questions)}]}
    return {"version": "1.1", "data": [{**article, "title": title} if title else article]}


def write(folder: Path, content: Any, name: str = "train.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_reads_questions_with_all_their_answers(tmp_path: Path) -> None:
    content = squad_of(question(), question(7, [("Anna", 20), ("a baker", 28)], "Who?"), title="Anna")
    first, second = read_squad(write(tmp_path, content))
    assert (first.id, first.question, first.context, first.answers) == ("q1", "Where?", CONTEXT, (Answer("Rome", 14),))
    assert (second.id, second.answers, second.article) == ("7", (Answer("Anna", 20), Answer("a baker", 28)), "Anna")
    assert first.repaired == second.repaired == 0


def test_without_a_title_the_context_is_the_article(tmp_path: Path) -> None:
    assert read_squad(write(tmp_path, squad_of(question())))[0].article == CONTEXT


def test_answer_that_stands_once_elsewhere_is_moved_and_counted(tmp_path: Path) -> None:
    (found,) = read_squad(write(tmp_path, squad_of(question(answers=[("Rome", 13), ("Rome", 14), ("Rome", 900)]))))
    assert found.answers == (Answer("Rome", 14),) * 3
    assert found.repaired == 2


def test_byte_order_mark_and_compression_do_not_count(tmp_path: Path) -> None:
    raw = b"\xef\xbb\xbf" + json.dumps(squad_of(question())).encode()
    plain, packed = write(tmp_path, raw), write(tmp_path, gzip.compress(raw), "dev.json.gz")
    assert read_squad(plain) == read_squad(packed)


def test_language_takes_the_questions_whose_ids_begin_with_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, squad_of(question("arabic-1-0"), question("english-1-0"), question("arabic-2-0")))
    assert [found.id for found in read_squad(Labelled(path, "ar"))] == ["arabic-1-0", "arabic-2-0"]
    with pytest.raises(InputError, match="holds no question with an id that begins with 'korean-'"):
        read_squad(Labelled(path, "ko"))


def test_ids_may_repeat_where_xtreme_cut_them_alone(tmp_path: Path) -> None:
    content = squad_of(question("0"), question("0", text="And where?"))
    assert len(read_squad(write(tmp_path, content, "tydiqa.goldp.ar.train.json"))) == 2
    for name in ("train.json", "tydiqa.goldp.ar.dev.json"):
        with pytest.raises(InputError, match=r"qas\[1\]: two questions have the id '0'"):
            read_squad(write(tmp_path, content, name))


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"", ":1", "the file ends early; is it cut off?"),
        (json.dumps(squad_of(question()), indent=1).encode()[:-30], ":", "is it cut off?"),
        (b'{"data": \n[}', ":2", "not JSON"),
        (b'{"data": "\n\xff"}', ":2", "byte 0xff is not UTF-8"),
        (b"[" * 100_000, "", "not SQuAD 1.1's JSON"),
        (b'{"data": ' + b"9" * 5000 + b"}", "", "not SQuAD 1.1's JSON"),
        ([], "", "the file is []; an object with 'data' is expected"),
        ({"data": {}}, "", "'data' is {}; a list is expected"),
        ({"data": []}, "", "holds no question"),
        ({"data": [{}]}, "", "data[0]: 'paragraphs' is missing; a list is expected"),
        (squad_of(question(), context=5), "", "data[0].paragraphs[0]: 'context' is 5; a string is expected"),
        (squad_of(question(text=None)), "", "qas[0]: 'question' is None; a string is expected"),
        (squad_of(question(True)), "", "'id' is True; a string or a whole number is expected"),
        (squad_of(question(text="\ud800?")), "", "'question' has half a character at 0"),
        (squad_of(question(), title="\ud800"), "", "'title' has half a character at 0"),
        (squad_of(question("q7", [])), "", "question 'q7': no answer"),
        (squad_of(question("q7", [("", 0)])), "", "question 'q7': an answer is empty; are the answers held back?"),
        (squad_of(question("q7", [("Anna", "0")])), "", "question 'q7': 'answer_start' is '0'; a whole number"),
        (
            squad_of(question("q7", [("Oslo", 14)])),
            "",
            "'Oslo' does not stand at 14 in the context, where there is 'Rome'",
        ),
        (squad_of(question("q7", [("Anna", 1)])), "", "and 2 times in all"),
        (squad_of(question("q7", [("Anna", -16)])), "", "does not stand at -16"),
        (squad_of(question("q7"), question("q7")), "", "qas[1]: two questions have the id 'q7'"),
    ],
)
def test_errors_name_file_and_place(tmp_path: Path, content: Any, place: str, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_squad(path)
    assert str(error.value).startswith(f"{path}{place}")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = write(tmp_path, gzip.compress(bytes(100_000)), "train.json.gz")
    monkeypatch.setattr(squad, "LARGEST_FILE", 50_000)
    with pytest.raises(InputError, match="is larger than 50000 bytes"):
        read_squad(packed)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_squad(tmp_path / "train.json")


@pytest.mark.parametrize("language", ["en", "ar"])
def test_reads_real_data(kit: Path, language: str) -> None:
    questions = [
        found for split in ("train", "dev", "test") for found in read_squad(kit / "qa" / language / f"{split}.json")
    ]
    assert len(questions) == 1190
    assert all(q.context.startswith(a.text, a.start) for q in questions for a in q.answers)
    assert not any(found.repaired for found in questions)
