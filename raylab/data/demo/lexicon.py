"""A language's words: concepts and their forms, from `lexicons/LANG.tsv`.

A line holds a concept, its part of speech (UPOS) and `key=form` fields. A form is one or more tokens; a token may
carry a part of speech of its own, as in `in/ADP the/DET school`. Which keys a row has is up to the grammar.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple


class Token(NamedTuple):
    """A word with its gold annotation: part of speech, and entity type (PER, LOC, ORG) or nothing."""

    word: str
    upos: str
    entity: str = ""


Phrase = tuple[Token, ...]


@dataclass(frozen=True)
class Entry:
    """One concept in one language."""

    concept: str
    upos: str
    texts: Mapping[str, str]
    _phrases: dict[str, Phrase] = field(default_factory=dict, compare=False, repr=False)

    def has(self, key: str) -> bool:
        """Whether there is such a form."""
        return key in self.texts

    def text(self, *keys: str) -> str:
        """The first of these forms that there is, as written in the lexicon."""
        for key in keys:
            if key in self.texts:
                return self.texts[key]
        raise KeyError(f"{self.concept} has none of {keys}, only {list(self.texts)}")

    def phrase(self, *keys: str, entity: str = "") -> Phrase:
        """The first of these forms that there is, as tokens; proper nouns in it are of this entity type."""
        for key in keys:
            if key in self.texts:
                name = f"{key}:{entity}"
                if name not in self._phrases:
                    self._phrases[name] = parse_form(self.texts[key], self.upos, entity)
                return self._phrases[name]
        raise KeyError(f"{self.concept} has none of {keys}, only {list(self.texts)}")


Lexicon = Mapping[str, Entry]


@cache
def read_lexicon(language: str) -> Lexicon:
    """All entries of a language by concept."""
    text = (importlib.resources.files(__package__) / "lexicons" / f"{language}.tsv").read_text(encoding="utf-8")
    entries = {}
    for line in text.splitlines():
        concept, upos, *fields = line.split("\t")
        entries[concept] = Entry(concept, upos, dict(item.split("=", 1) for item in fields))
    return entries


def parse_form(form: str, upos: str, entity: str = "") -> Phrase:
    """Tokens of a form; a token without a part of speech of its own has the row's."""
    tokens = []
    for piece in form.split(" "):
        word, slash, own = piece.rpartition("/")
        part = own if slash else upos
        tokens.append(Token(word if slash else piece, part, entity if part == "PROPN" else ""))
    return tuple(tokens)


def fill(form: str, upos: str, place: str, filling: Phrase) -> Phrase:
    """Tokens of a form with a phrase in place of `{place}`; what is written against the braces joins its last word."""
    tokens: list[Token] = []
    for token in parse_form(form, upos):
        before, braces, after = token.word.partition("{" + place + "}")
        if not braces:
            tokens.append(token)
            continue
        inside = list(filling)
        inside[0] = inside[0]._replace(word=before + inside[0].word)
        inside[-1] = inside[-1]._replace(word=inside[-1].word + after)
        tokens += inside
    return tuple(tokens)
