"""Labelled sentences of a made-up language: the beginning of a word tells its tag."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = [f"{a}{b}na" for a in "km" for b in "aeio"]
SURNAMES = [f"{a}{b}son" for a in "pt" for b in "aeio"]
PLACES = [f"{a}{b}burg" for a in "vz" for b in "aeio"]
OTHERS = [f"{a}{b}{c}" for a in "sdrl" for b in "aeio" for c in "lr"]


def ner_sentences(seed: int, count: int) -> list[list[tuple[str, str]]]:
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        sentence = [(draw.choice(OTHERS), "O") for _ in range(draw.randint(1, 6))]
        sentence += [(draw.choice(NAMES), "B-PER"), (draw.choice(SURNAMES), "I-PER")] if draw.random() < 0.5 else []
        sentence += [(draw.choice(OTHERS), "O")]
        sentence += [(draw.choice(PLACES), "B-LOC")] if draw.random() < 0.5 else []
        sentences.append(sentence)
    return sentences


def pos_sentences(seed: int, count: int, noun: str = "NOUN", verb: str = "VERB") -> list[list[tuple[str, str]]]:
    draw = random.Random(seed)
    return [
        [(draw.choice(NAMES), noun) if draw.random() < 0.5 else (draw.choice(OTHERS), verb) for _ in range(8)]
        for _ in range(count)
    ]


def write_conll(path: Path, sentences: list[list[tuple[str, str]]]) -> Path:
    text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences)
    path.write_text(text, encoding="utf-8")
    return path


def write_conllu(path: Path, sentences: list[list[tuple[str, str]]]) -> Path:
    text = "\n".join(
        "".join(f"{i}\t{word}\t_\t{tag}" + "\t_" * 6 + "\n" for i, (word, tag) in enumerate(sentence, start=1))
        for sentence in sentences
    )
    path.write_text(text, encoding="utf-8")
    return path


def write_squad(path: Path, seed: int, count: int, padding: int) -> Path:
    """Where somebody is: the one place that the context names, between other words, `padding` of them behind it."""
    draw = random.Random(seed)
    paragraphs = []
    for number in range(count):
        name, place = draw.choice(NAMES), draw.choice(PLACES)
        before, behind = ([draw.choice(OTHERS) for _ in range(most)] for most in (draw.randint(0, padding), padding))
        answer = {"text": place, "answer_start": len(" ".join([*before, name, ""]))}
        question = {"id": f"q{seed}-{number}", "question": name, "answers": [answer]}
        paragraphs.append({"context": " ".join([*before, name, place, *behind]), "qas": [question]})
    data = {"version": "1.1", "data": [{"title": "places", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def write_pairs(path: Path, seed: int, count: int) -> Path:
    """Pairs of sentences; a word of the second tells the label."""
    draw = random.Random(seed)
    words = {"entailment": "kana", "neutral": "pason", "contradiction": "vaburg"}
    lines = ["sentence1\tsentence2\tgold_label"]
    for _ in range(count):
        label = draw.choice([*words])
        first, second = (" ".join(draw.choice(OTHERS) for _ in range(draw.randint(1, 4))) for _ in range(2))
        lines.append(f"{first}\t{second} {words[label]}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
