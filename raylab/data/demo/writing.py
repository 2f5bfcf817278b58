"""The demo as files: text, NER, POS, QA and NLI of every language, in the layout of any other folder of data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from raylab.data.demo.grammar import GRAMMARS, Speaker
from raylab.data.demo.lexicon import Phrase
from raylab.data.demo.world import ACRONYMS, Clause, Sentence, World

DEMO_VERSION = "1"
"""Raised when the same scale and seed come to mean other files."""

LANGUAGES = tuple(GRAMMARS)

TABLE_1 = {"en": 44.6, "fr": 16.2, "ru": 13.1, "ar": 8.7, "hi": 0.5, "sw": 0.2, "te": 0.3, "mr": 0.3, "kn": 0.3}
"""Millions of sentences (paper, Table 1); mr and kn, which the table leaves out, as te."""

VALID_SENTENCES = 300
TASK_SIZES = {"train": 400, "dev": 150, "test": 200}
"""Sentences, paragraphs or pairs of each labelled split."""

SEEN_SHARE = 0.75
"""Share of the open-class concepts and names that the labelled train split may use: dev and test use all."""

_MARKS = frozenset(".,?।؟")
_QUESTIONS = {  # who, where, question mark
    "en": ("who", "where", "?"),
    "fr": ("qui", "où", "?"),
    "ru": ("кто", "где", "?"),
    "ar": ("من", "أين", "؟"),
    "hi": ("कौन", "कहाँ", "?"),
    "sw": ("nani", "wapi", "?"),
    "te": ("ఎవరు", "ఎక్కడ", "?"),
    "mr": ("कोण", "कुठे", "?"),
    "kn": ("ಯಾರು", "ಎಲ್ಲಿ", "?"),
}


def write_demo(root: Path, *, scale: float = 1e-3, seed: int = 0) -> None:
    """Write the demo's folder: text, and labelled data of four tasks, in nine languages.

    Equal arguments give equal bytes on every machine.

    Args:
        root: The folder; made where it is missing.
        scale: Training sentences, as a fraction of Table 1's: at 1e-3, 44,600 of English and 500 of Hindi.
        seed: Another seed is another draw of the same world.
    """
    for language in LANGUAGES:
        speaker = Speaker(language)

        def chance(purpose: str, language: str = language) -> random.Random:
            return random.Random(f"{DEMO_VERSION}/{seed}/{language}/{purpose}")

        _write_text(root / "text" / language, speaker, chance, max(1, round(TABLE_1[language] * 1e6 * scale)))
        seen = _seen_concepts(chance("seen"))
        for split, size in TASK_SIZES.items():
            known = seen if split == "train" else None
            for task, write in (("ner", _conll), ("pos", _conllu)):
                phrases = list(_phrases(speaker, chance(f"{task}/{split}"), size, known))
                suffix = "conll" if task == "ner" else "conllu"
                _write(root / task / language / f"{split}.{suffix}", write(phrases))
            paragraphs = list(_paragraphs(speaker, chance(f"qa/{split}"), size, f"{language}-{split}"))
            squad = {"version": "1.1", "data": [{"title": f"{language}-{split}", "paragraphs": paragraphs}]}
            _write(root / "qa" / language / f"{split}.json", [json.dumps(squad, ensure_ascii=False)])
            if split != "train" or language == "en":
                pairs = _pairs(speaker, chance(f"nli/{split}"), size)
                _write(root / "nli" / language / f"{split}.tsv", ["sentence1\tsentence2\tgold_label", *pairs])


def text_of(tokens: Iterable[str]) -> str:
    """A sentence as it is written: no space before a mark, nor after an elided article or an Arabic "and"."""
    pieces: list[str] = []
    for word in tokens:
        if pieces and word not in _MARKS and not pieces[-1].endswith("'") and pieces[-1] != "و":
            pieces.append(" ")
        pieces.append(word)
    return "".join(pieces)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_text(folder: Path, speaker: Speaker, chance: Callable[[str], random.Random], size: int) -> None:
    world = World(chance("text/valid"))
    valid: dict[str, None] = {}
    while len(valid) < VALID_SENTENCES:
        valid[_sentence_text(speaker, world)] = None
    world = World(chance("text/train"))
    train: list[str] = []
    while len(train) < size:
        text = _sentence_text(speaker, world)
        if text not in valid:
            train.append(text)
    _write(folder / "train.txt", train)
    _write(folder / "valid.txt", valid)


def _sentence_text(speaker: Speaker, world: World) -> str:
    return text_of(token.word for token in speaker.say(world.sentence()))


def _seen_concepts(chance: random.Random) -> Callable[[Sentence], bool]:
    """Whether the labelled train split may use a sentence: only with concepts of a random choice."""
    verdicts: dict[str, bool] = {}
    kept = {*ACRONYMS[::2]}  # of the shared acronyms, every language's train split knows the same half

    def known(concept: str) -> bool:
        if concept in ACRONYMS:
            return concept in kept
        if concept not in verdicts:
            verdicts[concept] = chance.random() < SEEN_SHARE
        return verdicts[concept]

    return lambda sentence: all(known(concept) for concept in sorted(sentence.concepts()))


def _phrases(
    speaker: Speaker, chance: random.Random, size: int, known: Callable[[Sentence], bool] | None
) -> Iterator[Phrase]:
    world = World(chance)
    while size:
        sentence = world.sentence()
        if known is None or known(sentence):
            size -= 1
            yield speaker.say(sentence)


def _conll(phrases: Iterable[Phrase]) -> Iterator[str]:
    for number, phrase in enumerate(phrases):
        if number:
            yield ""
        before = ""
        for token in phrase:
            tag = f"{'I' if token.entity == before else 'B'}-{token.entity}" if token.entity else "O"
            before = token.entity
            yield f"{token.word}\t{tag}"


def _conllu(phrases: Iterable[Phrase]) -> Iterator[str]:
    for number, phrase in enumerate(phrases, 1):
        yield f"# sent_id = {number}"
        yield f"# text = {text_of(token.word for token in phrase)}"
        for position, token in enumerate(phrase, 1):
            yield f"{position}\t{token.word}\t_\t{token.upos}\t_\t_\t_\t_\t_\t_"
        yield ""


def _paragraphs(speaker: Speaker, chance: random.Random, size: int, name: str) -> Iterator[dict[str, object]]:
    """Three to five events with a question about one of them: who did it, or where."""
    world = World(chance)
    who, where, mark = _QUESTIONS[speaker.language]
    number = 0
    while number < size:
        events = [
            event
            for event in (world.event() for _ in range(chance.randint(3, 5)))
            if event.subject not in ("he", "she")
        ]
        asked = [event for event in events if event.object is not None and event.place is not None]
        if len(events) < 2 or not asked:
            continue
        event = chance.choice(asked)
        parts = speaker.parts(event)
        part = chance.choice("SP")
        answer = text_of(token.word for token in parts[part])
        question = _question(speaker, event, part, who if part == "S" else where, mark)
        context, start = "", -1
        for other in events:
            sentence = text_of(token.word for token in speaker.finish(speaker.clause(other)))
            offset = len(context) + bool(context)
            context += (" " if context else "") + sentence
            if other is event:
                found = sentence.casefold().find(answer.casefold())
                start = offset + found if found >= 0 else -1
        if start < 0:
            continue
        answer = context[start : start + len(answer)]
        number += 1
        yield {
            "context": context,
            "qas": [
                {"id": f"{name}-{number}", "question": question, "answers": [{"text": answer, "answer_start": start}]}
            ],
        }


def _question(speaker: Speaker, event: Clause, part: str, word: str, mark: str) -> str:
    parts = speaker.parts(event)
    said = ("V", "O", "P") if part == "S" else ("S", "V", "O")
    kept = [token.word for piece in GRAMMARS[speaker.language].order if piece in said for token in parts.get(piece, ())]
    return text_of([word[0].upper() + word[1:], *kept, mark])


def _pairs(speaker: Speaker, chance: random.Random, size: int) -> Iterator[str]:
    """Premise and hypothesis: less is entailed, another object or place contradicts, more is neutral."""
    world = World(chance)
    labels = ("entailment", "contradiction", "neutral")
    number = 0
    while number < size:
        event = world.event()
        if not isinstance(event.object, str) or event.place is None or event.companion:
            continue
        label = labels[number % 3]
        less = replace(event, place=None, adverb=None, year=None, object_quality=None)
        if label == "entailment":
            premise, hypothesis = event, less
        elif label == "neutral":
            premise, hypothesis = less, event
        else:
            other = world.event()
            if not isinstance(other.object, str) or other.object == event.object or other.place in (None, event.place):
                continue
            hypothesis = replace(event, place=other.place)
            if chance.random() < 0.5:
                hypothesis = replace(event, object=other.object, object_quality=None, number=None)
            premise = event
        number += 1
        said = [
            text_of(token.word for token in speaker.finish(speaker.clause(clause))) for clause in (premise, hypothesis)
        ]
        yield f"{said[0]}\t{said[1]}\t{label}"
