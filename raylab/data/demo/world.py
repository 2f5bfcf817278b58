"""What happens: clauses drawn from scenes, in concepts and not in words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

_T = TypeVar("_T")

GIVEN = "maria ali ivan anna omar ravi sita juma fatima pierre john sara david amina".split()
FAMILY = "khan petrov martin hassan sharma reddy smith mwangi".split()
BOTH = "victoria sofia jordan florence".split()
PLACES = (
    "paris london moscow cairo delhi nairobi mumbai hyderabad bangalore dubai india france russia egypt kenya".split()
)
CITIES = PLACES[:10]
ACRONYMS = ("UNESCO", "NASA", "FIFA", "BBC", "UNICEF", "IBM", "Nokia", "Toyota", "WHO", "Intel")
ADVERBS = "now always often slowly quickly every_day".split()

_FOOD = "rice bread milk tea fruit meat salt sugar water coffee".split()

SCENES: dict[str, tuple[dict[str, str], str, str]] = {
    # who: ({verb: objects}, intransitive verbs, places)
    "farmer": ({"carry": "rice fruit milk stone", "sell": "rice fruit milk goat cow", "see": "cow horse goat bird tree"},
               "work walk rest", "field village market"),
    "teacher": ({"teach": "lesson story song", "read": "book newspaper letter", "write": "letter lesson book"},
                "work sit walk", "school library"),
    "student": ({"read": "book lesson newspaper story", "write": "lesson letter", "carry": "book bag"},
                "sit run work", "school library"),
    "doctor": ({"prepare": "medicine", "carry": "medicine bag lamp", "buy": "medicine water"},
               "work walk sit", "hospital city"),
    "cook": ({"prepare": "rice bread meat fish tea coffee", "wash": "knife table fruit rice", "buy": "salt sugar meat fish"},
             "work sing rest", "kitchen market"),
    "driver": ({"drive": "car", "wash": "car", "buy": "car newspaper tea"}, "work sleep sit rest", "road city bridge"),
    "singer": ({"sing": "song", "write": "song", "love": "song flower bird"}, "sit walk rest", "city garden"),
    "writer": ({"write": "story book letter newspaper", "read": "book newspaper letter", "drink": "coffee tea"},
               "work sit rest", "office library"),
    "soldier": ({"carry": "bag knife lamp stone", "see": "bridge horse car boat"}, "walk run sleep", "mountain road forest bridge"),
    "merchant": ({"sell": "salt sugar shirt bag lamp knife newspaper picture", "buy": "shirt bag lamp rice salt", "carry": "bag salt sugar"},
                 "work sit walk", "market city road"),
    "fisherman": ({"sell": "fish", "find": "fish stone", "build": "boat", "wash": "boat"}, "swim work sit", "sea river"),
    "child": ({"love": "dog cat bird flower story", "find": "flower stone cat picture", "drink": "milk water", "eat": "fruit bread"},
              "play run cry sleep swim", "garden school river village"),
    "woman": ({"buy": "bread milk shirt flower tea", "read": "letter newspaper book", "wash": "shirt table", "prepare": "tea rice bread"},
              "work rest sit walk", "market village garden kitchen office"),
    "man": ({"build": "house door table boat", "drink": "tea coffee water", "eat": "meat bread rice", "buy": "car horse lamp newspaper"},
            "work sleep walk rest", "village city office road"),
    "king": ({"build": "house boat", "love": "horse flower song picture", "see": "boat horse bird"}, "sit walk rest", "garden city mountain"),
}  # fmt: skip

ANIMALS: dict[str, tuple[dict[str, str], str, str]] = {
    "dog": ({"eat": "meat bread", "see": "cat bird", "love": "meat"}, "run sleep play", "garden road village"),
    "cat": ({"drink": "milk", "eat": "fish meat", "see": "bird fish"}, "sleep run play", "kitchen garden"),
    "cow": ({"drink": "water", "eat": "fruit flower"}, "walk rest sleep", "field village river"),
    "horse": ({"drink": "water", "carry": "rice bag salt"}, "run walk", "field road mountain"),
    "bird": ({"eat": "fruit rice fish", "find": "fruit water"}, "sing rest", "forest garden sea"),
    "goat": ({"eat": "flower fruit", "drink": "water"}, "run play", "mountain field"),
    "fish": ({"see": "boat stone"}, "swim sleep", "river sea"),
}

THINGS: dict[str, str] = {
    # what: which qualities it has
    "book": "new old good long", "letter": "long new old good", "house": "big small new old beautiful white", "car": "new old red black big",
    "boat": "big small old white", "song": "beautiful new old long", "medicine": "good bad new cheap", "lesson": "long good new",
    "shirt": "white red clean cheap new", "door": "white heavy old", "table": "big heavy clean small", "tree": "big old beautiful",
    "flower": "red white beautiful small", "stone": "big heavy white black", "newspaper": "new old cheap", "knife": "small clean old good",
    "bag": "heavy big black cheap", "story": "long beautiful old good", "picture": "beautiful old small", "lamp": "small new cheap",
    "bread": "good hot white cheap", "milk": "white cold hot good", "tea": "hot good cold", "coffee": "black hot good", "water": "cold clean hot",
    "meat": "good red bad", "fruit": "red good cheap bad", "rice": "white good cheap", "salt": "white cheap", "sugar": "white cheap",
    "dog": "big black good small", "cat": "small white black", "cow": "big white old", "horse": "black beautiful old big", "bird": "small beautiful white",
    "fish": "small big good", "goat": "white small black",
}  # fmt: skip

PEOPLE_ADJECTIVES = "good old new bad".split()
COUNTABLE = frozenset(THINGS) - frozenset(_FOOD)
"""What takes an article or a plural."""


@dataclass(frozen=True)
class Person:
    """A person by name."""

    given: str
    family: str | None = None


@dataclass(frozen=True)
class Organisation:
    """An organisation: an acronym, or a kind (university, bank, hospital) with the place that it is named after."""

    kind: str
    place: str | None = None


Participant = str | Person | Organisation
"""A concept, or somebody with a name; `he` and `she` are concepts too."""


@dataclass(frozen=True)
class Clause:
    """Who does what, and the circumstances; or what something is like, where `verb` is `is`."""

    subject: Participant
    verb: str
    object: Participant | None = None
    subject_quality: str | None = None
    object_quality: str | None = None
    quality: str | None = None
    determiner: str | None = None
    definite: bool = True
    number: str | None = None
    companion: Participant | None = None
    place: str | None = None
    adverb: str | None = None
    year: int | None = None
    past: bool = False

    def concepts(self) -> set[str]:
        """The concepts and names of open classes that the clause uses."""
        used: set[str] = set()
        for participant in (self.subject, self.object, self.companion):
            if isinstance(participant, Person):
                used |= {participant.given, participant.family or participant.given}
            elif isinstance(participant, Organisation):
                used |= {participant.kind, participant.place or participant.kind}
            elif participant is not None:
                used.add(participant)
        return used | {
            word for word in (self.verb, self.subject_quality, self.object_quality, self.quality, self.place) if word
        }


@dataclass(frozen=True)
class Sentence:
    """One clause, or two joined by a conjunction."""

    first: Clause
    conjunction: str | None = None
    second: Clause | None = None

    def concepts(self) -> set[str]:
        """The concepts and names of open classes that the sentence uses."""
        return self.first.concepts() | (self.second.concepts() if self.second else set())


class World:
    """Draws sentences.

    Args:
        chance: The source of all randomness.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def sentence(self) -> Sentence:
        """A sentence of any pattern."""
        first = self.clause()
        if self._chance.random() < 0.14:
            conjunction = self._pick(("and", "but", "because", "when"))
            return Sentence(first, conjunction, self.clause())
        return Sentence(first)

    def clause(self) -> Clause:
        """A clause of any pattern."""
        draw = self._chance.random()
        if draw < 0.12:
            return self._quality()
        if draw < 0.20:
            return self._organisation()
        if draw < 0.28:
            return self._residence()
        return self.event()

    def event(self) -> Clause:
        """Somebody of a scene does what is done there."""
        draw = self._chance.random()
        if draw < 0.15:
            who = self._pick(tuple(ANIMALS))
            actions, moves, places = ANIMALS[who]
            subject: Participant = who
        else:
            role = self._pick(tuple(SCENES))
            actions, moves, places = SCENES[role]
            subject = role if draw < 0.62 else (self._pick(("he", "she")) if draw < 0.7 else self.person())
        past = self._chance.random() < 0.5
        place = self._pick(places.split()) if self._chance.random() < 0.6 else None
        clause = Clause(subject, "", past=past, place=place, definite=self._chance.random() < 0.7)
        if self._chance.random() < 0.3:
            clause = replace(clause, verb=self._pick(moves.split()))
        else:
            verb = self._pick(tuple(actions))
            what = self._pick(actions[verb].split())
            number = (
                self._pick(("three", "four"))
                if what in COUNTABLE and what not in ANIMALS and self._chance.random() < 0.15
                else None
            )
            quality = None
            if number is None and what in THINGS and self._chance.random() < 0.35:
                quality = self._pick(THINGS[what].split())
            clause = replace(clause, verb=verb, object=what, object_quality=quality, number=number)
        if isinstance(subject, str) and subject in SCENES and self._chance.random() < 0.15:
            clause = replace(clause, subject_quality=self._pick(PEOPLE_ADJECTIVES))
        if isinstance(subject, str) and subject not in ("he", "she") and self._chance.random() < 0.15:
            clause = replace(clause, determiner=self._pick(("this", "that")))
        if not isinstance(subject, str) and self._chance.random() < 0.15:
            companion = self.person()
            if companion.given != (subject.given if isinstance(subject, Person) else None):
                clause = replace(clause, companion=companion)
        return self._when(clause)

    def person(self) -> Person:
        """Somebody by name."""
        given = self._pick(GIVEN + BOTH)
        return Person(given, self._pick(FAMILY) if self._chance.random() < 0.4 else None)

    def organisation(self) -> Organisation:
        """An organisation by name."""
        if self._chance.random() < 0.45:
            return Organisation(self._pick(ACRONYMS))
        return Organisation(self._pick(("university", "bank", "hospital")), self._pick(CITIES))

    def _organisation(self) -> Clause:
        place = self._pick(PLACES + BOTH) if self._chance.random() < 0.6 else None
        past = self._chance.random() < 0.5
        if self._chance.random() < 0.5:
            who = self.person()
            return self._when(
                Clause(who, "work", companion=self.organisation(), past=past, place=place and f"in:{place}")
            )
        verb, what = self._pick(
            (("build", "house"), ("buy", "car"), ("sell", "medicine"), ("buy", "boat"), ("sell", "lamp"))
        )
        return self._when(Clause(self.organisation(), verb, what, past=past, place=place and f"in:{place}"))

    def _residence(self) -> Clause:
        verb = self._pick(("live", "work", "walk", "rest"))
        where = self._pick(PLACES + BOTH)
        subject: Participant = self.person() if self._chance.random() < 0.7 else self._pick(tuple(SCENES))
        return self._when(Clause(subject, verb, past=self._chance.random() < 0.5, place=f"in:{where}"))

    def _quality(self) -> Clause:
        what = self._pick(tuple(THINGS))
        determiner = self._pick(("this", "that")) if self._chance.random() < 0.3 else None
        return Clause(
            what,
            "is",
            quality=self._pick(THINGS[what].split()),
            determiner=determiner,
            past=self._chance.random() < 0.3,
        )

    def _when(self, clause: Clause) -> Clause:
        draw = self._chance.random()
        if draw < 0.12:
            return replace(clause, adverb="yesterday" if clause.past else "today")
        if draw < 0.3:
            return replace(clause, adverb=self._pick(ADVERBS) if not clause.past or draw < 0.2 else "slowly")
        if draw < 0.4 and clause.past:
            return replace(clause, year=self._chance.randint(1950, 2024))
        return clause

    def _pick(self, options: Sequence[_T]) -> _T:
        """One of the options; earlier ones are more frequent, as Zipf's law has it."""
        return options[self._chance.choices(_INDICES[len(options)], cum_weights=_ZIPF[len(options)])[0]]


_INDICES = [range(n) for n in range(64)]
_ZIPF = [list(accumulate(1 / (rank + 2) for rank in range(n))) for n in range(64)]
