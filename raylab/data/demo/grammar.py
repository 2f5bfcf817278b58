"""How each language says a clause: word order, agreement, articles and cases, over the forms of its lexicon."""

from __future__ import annotations

from dataclasses import dataclass

from raylab.data.demo.lexicon import Entry, Lexicon, Phrase, Token, fill, parse_form, read_lexicon
from raylab.data.demo.world import COUNTABLE, SCENES, Clause, Organisation, Participant, Person, Sentence


@dataclass(frozen=True)
class Grammar:
    """What sets one language's sentences apart.

    Attributes:
        order: Of subject (S), verb (V), object (O), companion (C), place (P) and time (T).
        adjective_after: Adjectives follow their noun.
        noun_classes: Agreement is by noun class (Swahili) and not by gender.
        neuter_as_feminine: Where a verb has no neuter form, the feminine serves (Telugu); organisations are neuter.
        predicate_past: `is` has a past that agrees with any predicate adjective.
        silent_pronouns: The verb alone says `he` or `she`.
        stop: The mark that ends a sentence.
        capitals: A sentence begins with a capital letter.
    """

    order: str
    adjective_after: bool = False
    noun_classes: bool = False
    neuter_as_feminine: bool = False
    predicate_past: bool = False
    silent_pronouns: bool = False
    stop: str = "."
    capitals: bool = False


GRAMMARS = {
    "en": Grammar("SVOCPT", predicate_past=True, capitals=True),
    "fr": Grammar("SVOCPT", adjective_after=True, predicate_past=True, capitals=True),
    "ru": Grammar("TSVOCP", capitals=True),
    "ar": Grammar("VSOCPT", adjective_after=True, silent_pronouns=True),
    "hi": Grammar("STCPOV", predicate_past=True, stop="।"),
    "sw": Grammar(
        "SVOCPT", adjective_after=True, noun_classes=True, predicate_past=True, silent_pronouns=True, capitals=True
    ),
    "te": Grammar("TSCPOV", neuter_as_feminine=True),
    "mr": Grammar("STCPOV", predicate_past=True),
    "kn": Grammar("TSCPOV", neuter_as_feminine=True),
}

_NOTHING: Phrase = ()
_VOWELS = frozenset("aeiouâéêhô")  # of French, whose h is mute in this lexicon


class Speaker:
    """Says sentences in one language.

    Args:
        language: One of `GRAMMARS`.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._grammar = GRAMMARS[language]
        self._words: Lexicon = read_lexicon(language)
        self._order = self._grammar.order

    def say(self, sentence: Sentence) -> Phrase:
        """The sentence as annotated words, its full stop included."""
        tokens = self.clause(sentence.first)
        if sentence.second is not None and sentence.conjunction is not None:
            tokens += self._joined(sentence.conjunction, sentence.second)
        return self.finish(tokens)

    def _joined(self, conjunction: str, clause: Clause) -> Phrase:
        if self.language == "ar":
            if conjunction == "when" and clause.verb == "is":  # it wants a verb after it
                conjunction = "and"
            if conjunction == "because":  # it wants the subject after it, a pronoun as its own ending
                parts = self.parts(clause)
                joint = self._words[conjunction].phrase("form")
                if clause.subject in ("he", "she"):
                    joint = (joint[0]._replace(word=joint[0].word + ("ه" if clause.subject == "he" else "ها")),)
                return joint + tuple(token for part in "SVOCPT" for token in parts.get(part, _NOTHING))
        comma: Phrase = (Token(",", "PUNCT"),) if self.language == "ru" and conjunction != "and" else _NOTHING
        return comma + self._words[conjunction].phrase("form") + self.clause(clause)

    def finish(self, tokens: Phrase, mark: str | None = None) -> Phrase:
        """With a capital letter where the language has them, and a full stop or another mark."""
        if self._grammar.capitals:
            first = tokens[0]
            tokens = (first._replace(word=first.word[0].upper() + first.word[1:]), *tokens[1:])
        return (*tokens, Token(mark or self._grammar.stop, "PUNCT"))

    def clause(self, clause: Clause) -> Phrase:
        """A clause in the language's word order."""
        parts = self.parts(clause)
        return tuple(token for part in self._order for token in parts.get(part, _NOTHING))

    def parts(self, clause: Clause) -> dict[str, Phrase]:
        """A clause's phrases by place in the word order: S, V, O, C, P, T."""
        if clause.verb == "is":
            return self._quality(clause)
        subject = clause.subject
        parts = {
            "S": self._subject(clause),
            "V": self._verb(clause.verb, clause.past, self._gender(subject)),
        }
        if clause.object is not None:
            parts["O"] = self.participant(
                clause.object, clause.object_quality, None, clause.definite, clause.number, is_object=True
            )
        if clause.companion is not None and not (self.language == "ru" and isinstance(clause.companion, Person)):
            name = self.participant(clause.companion)
            parts["C"] = fill(self._words["with"].text("form"), "ADP", "nom", name)
        if clause.place is not None:
            parts["P"] = self.place(clause.place)
        parts["T"] = self._time(clause)
        return parts

    def _subject(self, clause: Clause) -> Phrase:
        if clause.subject in ("he", "she") and self._grammar.silent_pronouns:
            return _NOTHING
        return self.participant(clause.subject, clause.subject_quality, clause.determiner, clause.definite)

    def place(self, place: str) -> Phrase:
        """Where: in a kind of place, or in a place by name (`in:paris`)."""
        if place.startswith("in:"):
            return self._name(place[3:], place=True).phrase("loc", entity="LOC")
        return self._words[place].phrase("loc")

    def participant(
        self,
        who: Participant,
        quality: str | None = None,
        determiner: str | None = None,
        definite: bool = True,
        number: str | None = None,
        *,
        is_object: bool = False,
    ) -> Phrase:
        """A noun phrase, a pronoun, or a name."""
        if isinstance(who, Person):
            given = self._name(who.given).phrase("nom", entity="PER")
            return given + (self._words[f"family.{who.family}"].phrase("nom", entity="PER") if who.family else _NOTHING)
        if isinstance(who, Organisation):
            return self._organisation(who)
        if who in ("he", "she"):
            return self._words[who].phrase("form")
        return self._noun_phrase(self._words[who], quality, determiner, definite, number, is_object)

    def _noun_phrase(
        self,
        noun: Entry,
        quality: str | None,
        determiner: str | None,
        definite: bool,
        number: str | None,
        is_object: bool,
    ) -> Phrase:
        gender = self._gender(noun.concept)
        if number is not None and noun.has("num"):
            numeral = self._agreeing(self._words[number], gender)
            counted = noun.phrase("num.acc", "num") if is_object else noun.phrase("num")
            return counted + numeral if self._grammar.noun_classes else numeral + counted
        case = ("acc", "nom") if is_object else ("nom",)
        words = noun.phrase(*case)
        # An object that is declined takes declined company, which the lexicon has for feminine adjectives only.
        plain = not is_object or words == noun.phrase("nom")
        adjective = self._words[quality] if quality else None
        described = _NOTHING
        if adjective is not None:
            if plain:
                described = self._agreeing(adjective, gender, words[0].word)
            elif adjective.has(f"acc.{gender}"):
                described = adjective.phrase(f"acc.{gender}")
        pointer = _NOTHING
        if determiner is not None and plain and determiner in self._words:
            pointer = self._agreeing(self._words[determiner], gender, words[0].word)
        before = adjective is None or not self._grammar.adjective_after or adjective.texts.get("pos") == "pre"
        if self._grammar.noun_classes:
            return words + pointer + described
        body = described + words if before else words + described
        return (pointer or self._article(noun, gender, definite, bool(described) and before, body[0].word)) + body

    def _article(self, noun: Entry, gender: str, definite: bool, adjective_first: bool, following: str) -> Phrase:
        if self.language == "fr":
            if adjective_first:
                return self._agreeing(self._words["the"], gender)
            return (Token(noun.text("def"), "DET"),)
        if self.language == "en":
            if definite:
                return self._words["the"].phrase("m")
            if noun.concept in COUNTABLE or noun.concept in SCENES:
                return (Token("an" if following[0] in "aeiou" else "a", "DET"),)
        return _NOTHING

    def _quality(self, clause: Clause) -> dict[str, Phrase]:
        assert isinstance(clause.subject, str)
        assert clause.quality is not None
        noun, adjective = self._words[clause.subject], self._words[clause.quality]
        gender = self._gender(clause.subject)
        keys = [f"pred.{gender}", "pred.m"] if adjective.has("pred.m") else []
        predicate = adjective.phrase(*keys) if keys else self._agreeing(adjective, gender)
        copula = _NOTHING
        if "is" in self._words:
            past = clause.past and self._grammar.predicate_past
            tense = "pst" if past else "prs"
            if self._words["is"].has(tense):
                copula = self._words["is"].phrase(f"{tense}.{gender}", tense)
        subject = self._noun_phrase(noun, None, clause.determiner, True, None, False)
        if self._order.endswith("V"):
            return {"S": subject, "O": predicate, "V": copula}
        if self._order.startswith("V"):
            return {"V": copula, "S": subject, "O": predicate}
        return {"S": subject, "V": copula, "O": predicate}

    def _verb(self, verb: str, past: bool, gender: str) -> Phrase:
        tense = "pst" if past else "prs"
        second = [f"{tense}.f"] if gender == "n" and self._grammar.neuter_as_feminine else []
        return self._words[verb].phrase(f"{tense}.{gender}", *second, tense)

    def _time(self, clause: Clause) -> Phrase:
        if clause.year is not None:
            year = (Token(str(clause.year), "NUM"),)
            return fill(self._words["in_year"].text("form"), "ADP", "year", year)
        return self._words[clause.adverb].phrase("form") if clause.adverb else _NOTHING

    def _organisation(self, who: Organisation) -> Phrase:
        if who.place is None:
            return (Token(who.kind, "PROPN", "ORG"),)
        template = self._words[f"org.{who.kind}"].text("form")
        key = "gen" if "{gen}" in template else "nom"
        place = self._name(who.place, place=True).phrase(key, "nom")
        return tuple(token._replace(entity="ORG") for token in fill(template, "PROPN", key, place))

    def _agreeing(self, entry: Entry, gender: str, following: str = "") -> Phrase:
        before_vowel = f"{gender}.v"  # French: cet, nouvel
        if entry.has(before_vowel) and following[:1] in _VOWELS:
            return entry.phrase(before_vowel)
        return entry.phrase(gender, "m" if entry.has("m") else "c9")

    def _gender(self, who: Participant) -> str:
        if isinstance(who, Person):
            return self._name(who.given).texts.get("g", "m")
        if isinstance(who, Organisation):
            return "n" if self._grammar.neuter_as_feminine else "m"
        if who in ("he", "she"):
            return "f" if who == "she" else "m"
        return self._words[who].texts.get("g", "m")

    def _name(self, name: str, *, place: bool = False) -> Entry:
        both = self._words.get(f"both.{name}")
        return both or self._words[f"place.{name}" if place else f"given.{name}"]


def words_of(language: str) -> set[str]:
    """All distinct words of a language's lexicon."""
    return {
        token.word
        for entry in read_lexicon(language).values()
        for key, form in entry.texts.items()
        if key not in ("g", "pos") and "{" not in form
        for token in parse_form(form, entry.upos)
    }
