"""Paragraphs to sentences by rules of punctuation, and Unicode normalization.

The rules know the ends of sentences in Latin, Cyrillic, Arabic, Indic and East Asian writing. A full stop does not end
one after an initial, after a known abbreviation, inside a number, or before a word that begins with a small letter.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Normalization = Literal["none", "nfc", "nfkc"]
SentenceSplit = Literal["lines", "rules"]

SENTENCES_VERSION = 1
"""Raised when the rules come to give other sentences; `FORMAT` in raylab/search/plan.py rises with it."""

_CLOSING = "\"'”’»›)\\]}」』）】"
_MARKS = ".!?…؟۔।॥։።"
# Ends of sentences, with what closes behind them, where white space follows; East Asian ones need none. A run of marks
# is tried at its start alone, and given up whole: a line of nothing else takes linear time.
_END = re.compile(
    rf"(?P<mark>(?<![{_MARKS}])[{_MARKS}]++[{_CLOSING}]*+(?:\s++»)?+)\s++|(?<![。！？｡])[。！？｡]++[{_CLOSING}]*+\s*+"
)
_OPENING = "\"'“‘„«‹([{¿¡-–—\u200e\u200f"
_LAST_WORD = re.compile(r"[^\s(\[{\"'“‘«„]+$")
_ABBREVIATIONS = {
    "en": "mr mrs ms dr prof st mt rev hon gen col lt sgt capt jr sr vs etc e.g i.e cf al approx no nos vol fig pp ed "
    "eds jan feb mar apr jun jul aug sep sept oct nov dec inc ltd co corp dept est",
    "fr": "m mm mme mmes mlle dr pr me st ste p.ex ex cf etc c.-à-d env av apr art chap fig vol no éd p pp janv févr "
    "avr juil sept oct nov déc",
    "ru": "г гг в вв т.е т.к т.д т.п т.н и.о е.g др пр см ср им ул пл пр-т д обл руб коп тыс млн млрд стр рис "
    "гл проф акад доц нар св род ок напр англ лат",
    "ar": "د أ م ص ق.م هـ إلخ",
    "hi": "डॉ डा श्री प्रो पं सं कि.मी ई.पू रु ए बी सी डी ई एफ एच आई जे के एल एम एन ओ पी आर एस टी यू वी",
    "mr": "डॉ डा श्री सौ प्रा पं सं कि.मी इ.स ई.पू रु ए बी सी डी ई एफ एच आई जे के एल एम एन ओ पी आर एस टी यू वी",
    "sw": "dkt bw bi mhe prof n.k k.m k.v k.k taz",
    "te": "డా శ్రీ ప్రొ కి.మీ సం క్రీ.శ క్రీ.పూ రూ",
    "kn": "ಡಾ ಶ್ರೀ ಪ್ರೊ ಕಿ.ಮೀ ಸಂ ಕ್ರಿ.ಶ ಕ್ರಿ.ಪೂ ರೂ",
    "de": "dr prof hr fr st z.b d.h u.a usw bzw ca nr vgl bd jan feb aug sept okt nov dez",
    "es": "sr sra srta dr dra d dña ud uds etc p.ej av núm pág ee.uu",
    "pt": "sr sra dr dra prof etc p.ex av núm pág",
    "it": "sig dott prof ecc art pag es p.es",
    "nl": "dhr mevr dr prof bijv d.w.z enz nr ca",
}
_KNOWN = {language: frozenset(words.split()) for language, words in _ABBREVIATIONS.items()}


def normalize(text: str, form: Normalization) -> str:
    """A text in a Unicode normalization form; no line of it is joined or cut."""
    if form == "none":
        return text
    return unicodedata.normalize("NFC" if form == "nfc" else "NFKC", text)


def split_sentences(paragraph: str, language: str) -> list[str]:
    """The sentences of a paragraph, without the white space around them; joined by spaces they are the paragraph.

    Args:
        paragraph: One line of text.
        language: Whose abbreviations count; of a language without a list, initials and numbers still do.

    Example:
        >>> split_sentences("Dr. J. Smith went to Cairo. Why? It was 3.5 km.", "en")
        ['Dr. J. Smith went to Cairo.', 'Why?', 'It was 3.5 km.']
    """
    known = _KNOWN.get(language, frozenset())
    sentences, start = [], 0
    for end in _END.finditer(paragraph):
        if end["mark"] and not _ends(paragraph, start, end, known):
            continue
        if sentence := paragraph[start : end.end()].strip():
            sentences.append(sentence)
        start = end.end()
    if rest := paragraph[start:].strip():
        sentences.append(rest)
    return sentences


def _ends(paragraph: str, start: int, end: re.Match[str], known: frozenset[str]) -> bool:
    """Whether a sentence ends at a mark that white space follows."""
    following = paragraph[end.end() : end.end() + 4].lstrip(_OPENING)[:1]
    if following.islower() or (following and following in ",;:،؛"):
        return False
    mark = end["mark"]
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    word = _LAST_WORD.search(paragraph, max(start, end.start() - 40), end.start())
    if word is None:
        return True
    before = word[0].lower()
    if before in known or before.rpartition("’")[2] in known:
        return False
    if before.replace(".", "").isdigit() and start == word.start():
        return False  # the number of a list or a heading
    initial = word[0].rpartition(".")[2]
    return not (len(initial) == 1 and (initial.isupper() or unicodedata.category(initial) == "Lo"))


def split_all(paragraphs: list[str], language: str, how: SentenceSplit) -> list[str]:
    """The sentences of paragraphs: each is one already (`lines`), or rules find them."""
    if how == "lines":
        return paragraphs
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph, language)]
