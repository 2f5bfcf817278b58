from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.data.sentences import normalize, split_all, split_sentences

# Each sentence as the rules should find it; joined by spaces, they are the paragraph.
PARAGRAPHS = {
    "en": [
        "Dr. J. R. Smith went to Washington D.C. on Jan. 5, 2020.",
        "He paid $3.50 (approx. 3 euros).",
        '"Really?" she asked.',
        "It came at 5 p.m. and then left...",
        "So it goes!",
    ],
    "fr": [
        "M. Dupont habite à Paris, p. ex. dans le 5e arr.",
        "Il est né le 3 janv. 1980.",
        "« Vraiment ? » dit-elle.",
        "Oui !",
    ],
    "ru": ["А. С. Пушкин родился в г. Москве.", "Он был поэтом, т. е. писал стихи.", "Правда?", "— Да!"],
    "ar": ["هل أنت بخير؟", "نعم، شكرا.", "ذهب د. أحمد إلى المدرسة.", "عاد في المساء!"],
    "hi": ["राम घर गया।", "क्या तुम ठीक हो?", "डॉ. शर्मा आए।", "५.५ लाख रुपये।", "वह एस. के. राव है.", "ठीक है॥"],
    "sw": ["Dkt. Juma alienda Nairobi.", "Je, unajua?", "Ndiyo!"],
    "te": ["రాముడు ఇంటికి వెళ్ళాడు.", "డా. రావు వచ్చారు.", "నిజమా?"],
    "mr": ["राम घरी गेला.", "डॉ. जोशी आले.", "खरंच?"],
    "kn": ["ರಾಮ ಮನೆಗೆ ಹೋದನು.", "ಡಾ. ರಾವ್ ಬಂದರು.", "ನಿಜವಾಗಿ?"],
    "xx": ["A. B. Name said 1.5 things.", "Number 2!", "1. The first of a list."],
}


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_paragraphs_are_split_where_sentences_end(language: str) -> None:
    assert split_sentences(" ".join(PARAGRAPHS[language]), language) == PARAGRAPHS[language]


def test_east_asian_sentences_end_without_a_space() -> None:
    assert split_sentences("これは本です。「はい。」そうだ！", "ja") == ["これは本です。", "「はい。」", "そうだ！"]


@given(st.text(alphabet="aA.!?।؟。\"') »e5", max_size=60))
def test_nothing_is_lost(paragraph: str) -> None:
    sentences = split_sentences(paragraph, "en")
    assert "".join(" ".join(sentences).split()) == "".join(paragraph.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@pytest.mark.parametrize("unit", [".", ". ", '!"', "。", "a", ". \u00a0", "A. "])
@pytest.mark.timeout(20)
def test_long_paragraphs_take_linear_time(unit: str) -> None:
    assert split_sentences(unit * 300_000, "en")  # minutes, where time is quadratic


def test_lines_stay_as_they_are() -> None:
    assert split_all(["One. Two."], "en", "lines") == ["One. Two."]
    assert split_all(["One. Two.", "Three."], "en", "rules") == ["One.", "Two.", "Three."]


def test_normalization_forms() -> None:
    text = "e\u0301 \ufb01 क\u093c"
    assert normalize(text, "none") == text
    assert normalize(text, "nfc").startswith("\u00e9 \ufb01")
    assert normalize(text, "nfkc").startswith("\u00e9 fi")
