"""Whatever bytes a labelled file holds, its reader gives examples or one clear line."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.tasks import TASKS

_SQUAD = json.dumps(
    {
        "version": "1.1",
        "data": [
            {
                "title": "Röm",
                "paragraphs": [
                    {
                        "context": "Anna lives in Rome. Anna is a bäker.",
                        "qas": [
                            {"id": "1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 14}]},
                            {"id": "2", "question": "", "answers": [{"text": " is a", "answer_start": 24}] * 2},
                        ],
                    }
                ],
            }
        ],
    }
).encode()
_PAIR = {"language": "en", "sentence1": "a", "sentence2": "b \U0001f600", "gold_label": "neutral", "label": 1}
_CONLLU = "# text = du pain\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n" + "".join(
    f"{n}\t{word}\t_\t{tag}\t_\t_\t0\t_\t_\t_\n" for n, (word, tag) in enumerate([("de", "ADP"), ("le", "DET")], 1)
)
SEEDS: dict[str, tuple[str, list[bytes]]] = {
    "conll": (
        "ner",
        [
            "Anna\tB-PER\nñ\tO\n\nNew\tB-LOC\nYork\tI-LOC\n".encode(),
            b"-DOCSTART- -X- O\n\nEU NNP B-ORG\n. . O\n",
            b"en:a\tO\nen:b\tI-PER\n",
        ],
    ),
    "conllu": ("pos", [_CONLLU.encode(), b"de\tADP\nle\tDET\n\npain\tNOUN\n"]),
    "squad": ("qa", [_SQUAD, json.dumps(json.loads(_SQUAD), indent=1, ensure_ascii=False).encode()]),
    "pairs": (
        "nli",
        [
            b'language\tgold_label\tsentence1\tsentence2\nen\tneutral\ta\tb\nar\t-\t"c"\td\n',
            b'a\t"b ""q"""\tneutral\r\nc\td\tcontradictory\r\n',
        ],
    ),
    "json lines": ("nli", [json.dumps(_PAIR).encode() + b"\n" + json.dumps({**_PAIR, "gold_label": "-"}).encode()]),
}
_KINDS = ("insert", "replace", "delete", "repeat", "cut")
_PIECES = [
    *(bytes([byte]) for byte in b'\t\n\r "\\{}[]:,-0#\x00\xff'),
    *(
        b"null",
        b"true",
        b"1e999",
        b"9" * 30,
        b"-1",
        b"NaN",
        b"\\ud800",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"B-",
        b"I-X",
    ),
]
_EDITS = st.lists(
    st.tuples(
        st.sampled_from(_KINDS),
        st.floats(0, 1),
        st.one_of(st.sampled_from(_PIECES), st.binary(min_size=1, max_size=4)),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, piece in edits:
        place = int(where * len(content))
        size = piece[0] % 16 + 1
        before, behind = content[:place], content[place:]
        content = {
            "insert": before + piece + behind,
            "replace": before + piece + behind[len(piece) :],
            "delete": before + behind[size:],
            "repeat": before + behind[:size] * 2 + behind[size:],
            "cut": before,
        }[kind]
    return content


def check(name: str, folder: Path, tokenizer: Tokenizer, content: bytes, part: int) -> None:
    """Read a file, as a whole or one language of it, compressed or not, and make features of what it holds."""
    task = TASKS[SEEDS[name][0]]
    path = folder / ("file.gz" if part % 5 == 0 else "file")
    path.write_bytes(gzip.compress(content, 0)[: -1 if part % 10 == 0 else None] if part % 5 == 0 else content)
    message = ""
    try:
        examples = task.read(Labelled(path, "en" if part % 3 == 0 and task.name in ("qa", "nli") else None))
    except InputError as error:
        message = str(error)
    if message:
        assert message.startswith(str(path))
        assert "\n" not in message
        return
    features = task.features(examples, tokenizer, 12, 4)
    assert len(features.gold) == len(examples) > 0
    assert task.counts(features, task.labels(features))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: on some disks, writing files is most of the work."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    for content in SEEDS[name][1]:
        (tmp_path / "file").write_bytes(content)
        assert TASKS[SEEDS[name][0]].read(tmp_path / "file")


@pytest.mark.parametrize("name", SEEDS)
def test_any_bytes_give_examples_or_an_input_error(name: str, memory: Path, tokenizer: Tokenizer) -> None:
    mutated = st.builds(edited, st.sampled_from(SEEDS[name][1]), _EDITS)

    @settings(max_examples=200)
    @given(st.one_of(mutated, mutated, mutated, st.binary(max_size=80)), st.integers(0, 29))
    def run(content: bytes, part: int) -> None:
        check(name, memory, tokenizer, content, part)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_ten_thousand_files_give_examples_or_an_input_error(name: str, memory: Path, tokenizer: Tokenizer) -> None:
    chance = random.Random(name)
    for number in range(10_000):
        edits = [
            (chance.choice(_KINDS), chance.random(), chance.choice([chance.choice(_PIECES), chance.randbytes(3)]))
            for _ in range(chance.randint(1, 4))
        ]
        content = edited(chance.choice(SEEDS[name][1]), edits) if number % 10 else chance.randbytes(number % 97)
        try:
            check(name, memory, tokenizer, content, number)
        except Exception as error:
            error.add_note(f"file {number}: {content!r}")
            raise
