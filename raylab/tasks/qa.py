"""Extractive question answering: SQuAD 1.1, TyDiQA-GoldP, XQuAD, as XTREME trains and scores it.

A context longer than a sequence is read in windows that overlap (third_party/processors/squad.py of
google-research/xtreme). The head gives each token a score as the answer's first and one as its last; the answer is the
best pair over all windows of a question.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.tasks.base import IGNORED, Labels, room_for_text
from raylab.tasks.ragged import Ragged, Stretches, join, offsets_of, ragged_of, within
from raylab.tasks.scoring import answer_f1, exact_match
from raylab.tasks.squad import Question, read_squad

if TYPE_CHECKING:
    from torch import Tensor, nn

LONGEST_QUESTION = 64  # tokens, as in XTREME; and at most half of what a sequence has for text
LONGEST_ANSWER = 30  # tokens, as in XTREME
N_BEST = 20  # starts, and ends, of a window that are paired, as in XTREME
_NOWHERE = -1
_CONTEXTS_AT_ONCE = 256  # Python's objects for the characters of a token take half a kilobyte


@dataclass(frozen=True, eq=False)
class QuestionFeatures:
    """Questions and their contexts, tokenized. Q questions in W windows of V tokens in all.

    Attributes:
        tokens: Windows: `begin question between context end`, those of one question one after another. W rows
        gold: The right answers to each question.
        ids: Each question's name in the dataset.
        contexts: The different contexts.
        context_of_question: Each question's context, as an index into `contexts`. [Q]
        window_offsets: Question i has the windows from `window_offsets[i]` to `window_offsets[i + 1]`. [Q + 1]
        characters: First character and the one behind the last, in its context, of each token; negative where it is no
            token of the context. [V, 2]
        may_start: Whether an answer may start at a token: in this window it has more around it than in any other. [V]
        span: First and last token of the answer, within the window; the window's first token, twice, where the answer
            is not all in the window; `IGNORED` where it is in no window. [W, 2]
        cut_questions: Questions too long.
        repaired_answers: Answers that stood elsewhere than the file says.
    """

    tokens: Ragged
    gold: list[tuple[str, ...]]
    ids: list[str]
    contexts: tuple[str, ...]
    context_of_question: np.ndarray
    window_offsets: np.ndarray
    characters: np.ndarray
    may_start: np.ndarray
    span: np.ndarray
    cut_questions: int
    repaired_answers: int


class QuestionAnswering:
    """Question answering; fulfils `raylab.tasks.base.Task`."""

    name = "qa"
    metrics = ("f1", "em")

    def read(self, dataset: Path | Labelled) -> list[Question]:
        """Read SQuAD's JSON, or the part of a file; a part is chosen by article."""
        return Labelled.of(dataset).share(read_squad(dataset), lambda question: question.article)

    def features(
        self, examples: list[Question], tokenizer: Tokenizer, max_length: int, stride: int
    ) -> QuestionFeatures:
        """Tokenize questions and contexts, and cut long contexts into windows.

        Args:
            examples: Questions; those without answers have no targets.
            tokenizer: The tokenizer of the encoder.
            max_length: Longest window in tokens. The question is cut to half of what it has for text, and to 64.
            stride: Tokens that neighbouring windows share, but at most 3/4 of what a window has for the context.
                XTREME's `doc_stride` is the other part of the window: what is new in the next.

        Raises:
            InputError: `max_length` leaves no room for a question and a context.
        """
        room = room_for_text(max_length, tokenizer.begin, tokenizer.between, tokenizer.end, least=2)
        questions = ragged_of(tokenizer.encode_batch([example.question for example in examples]))
        question_lengths = np.minimum(questions.lengths, min(LONGEST_QUESTION, room // 2))  # [Q]
        places = {text: place for place, text in enumerate(dict.fromkeys(example.context for example in examples))}
        context_of_question = np.array([places[example.context] for example in examples], dtype=np.int64)  # [Q]
        pieces, characters = _encoded(tokenizer, list(places))

        window_room = room - question_lengths  # [Q]
        step = window_room - np.minimum(stride, window_room * 3 // 4)  # [Q]
        context_lengths = pieces.lengths[context_of_question]  # [Q]
        windows = 1 + np.maximum(0, -(-(context_lengths - window_room) // step))  # [Q]
        question_of_window = np.repeat(np.arange(len(examples)), windows)  # [W]
        window_offsets = offsets_of(windows)
        first = (np.arange(len(question_of_window)) - window_offsets[question_of_window]) * step[question_of_window]

        question_text = Stretches(
            questions.values, questions.offsets[question_of_window], question_lengths[question_of_window]
        )
        context_text = Stretches(
            pieces.values,
            pieces.offsets[context_of_question[question_of_window]] + first,
            np.minimum(window_room[question_of_window], context_lengths[question_of_window] - first),
        )
        tokens, (_, begins) = join(tokenizer.begin, question_text, tokenizer.between, context_text, tokenizer.end)
        lengths = context_text.lengths
        inside = Stretches(tokens.values, begins, lengths).positions()  # of the windows' context tokens
        of_window = np.full((len(tokens.values), 2), _NOWHERE, dtype=np.int64)
        of_window[inside] = characters[context_text.positions()]
        may_start = np.zeros(len(tokens.values), dtype=bool)
        may_start[inside] = _most_around(question_of_window, first, lengths)
        span = _spans(examples, pieces, characters, context_of_question)[question_of_window]  # [W, 2] in the context
        return QuestionFeatures(
            tokens=tokens,
            gold=[tuple(answer.text for answer in example.answers) for example in examples],
            ids=[example.id for example in examples],
            contexts=tuple(places),
            context_of_question=context_of_question,
            window_offsets=window_offsets,
            characters=of_window,
            may_start=may_start,
            span=_in_windows(span, first, lengths, begins - tokens.offsets[:-1], window_offsets),
            cut_questions=int((question_lengths < questions.lengths).sum()),
            repaired_answers=sum(example.repaired for example in examples),
        )

    def labels(self, train: QuestionFeatures) -> Labels:
        """Start and end."""
        return Labels(("start", "end"), "")

    def targets(self, features: QuestionFeatures, labels: Labels) -> Ragged:
        """First and last token of the answer in each window; the window's first token where it does not hold it.

        An answer that no window holds whole is ignored in all of them.
        """
        return Ragged(features.span.reshape(-1), np.arange(len(features.span) + 1) * 2)

    def counts(self, features: QuestionFeatures, labels: Labels) -> dict[str, int]:
        """Questions and windows; answers lost, or not to be had exactly; answers repaired; questions cut.

        - `cut_answers`: no window holds the answer (the first one, which is trained on) whole.
        - `inexact_answers`: tokens hold it, but more than it: even a right prediction is no exact match of it.
        """
        taught = features.span[:, 0] > 0
        windows = np.flatnonzero(taught)
        starts = features.tokens.offsets[windows] + features.span[windows, 0]
        ends = features.tokens.offsets[windows] + features.span[windows, 1]
        question_of_window = np.repeat(np.arange(len(features.gold)), np.diff(features.window_offsets))
        inexact = {
            question
            for question, start, end in zip(question_of_window[windows].tolist(), starts, ends, strict=True)
            if self._text(features, question, start, end) != features.gold[question][0].strip()
        }
        return {
            "questions": len(features.gold),
            "windows": len(features.tokens),
            "cut_answers": len(features.gold) - len(np.unique(question_of_window[windows])),
            "inexact_answers": len(inexact),
            "repaired_answers": features.repaired_answers,
            "cut_questions": features.cut_questions,
        }

    def head(self, dim: int, labels: Labels, dropout: float) -> nn.Module:
        """A linear layer over every token: [B, T, dim] to [B, T, 2]."""
        from raylab.tasks.heads import TokenHead  # torch is slow to import

        return TokenHead(dim, 2, dropout)

    def loss(self, logits: Tensor, targets: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean of the cross-entropies of the first and the last token among all tokens of the window.

        Args:
            logits: [B, T, 2]
            targets: [B, 2]
            attention_mask: False at padding. [B, T]
        """
        from torch.nn import functional

        logits = logits.float()
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask[..., None], -np.inf)
        return functional.cross_entropy(logits, targets, ignore_index=IGNORED)

    def predict(
        self, outputs: Iterable[tuple[np.ndarray, Tensor]], features: QuestionFeatures, labels: Labels
    ) -> list[str]:
        """The best answer to each question: exactly the context's text from its first token to its last.

        As in XTREME (transformers' `compute_predictions_logits`), the 20 best starts and ends of each window are
        paired; a pair is an answer if both are in the context, the end is not before the start, it has at most 30
        tokens, and the start has more around it in this window than in others. The answer with the highest sum of both
        logits wins; where no pair is one, it is empty.
        """
        best = np.full(len(features.tokens), -np.inf)  # [W]
        starts, ends = np.zeros((2, len(features.tokens)), dtype=np.int64)  # [W] in `tokens.values`
        for rows, logits in outputs:
            positions, inside = features.tokens.positions(rows)
            positions = np.where(inside, positions, 0)
            score, start, end = _best_pairs(
                np.where(inside[..., None], logits.double().cpu().numpy(), -np.inf),
                inside & features.may_start[positions],
                inside & (features.characters[positions, 0] >= 0),
            )
            best[rows] = score
            starts[rows], ends[rows] = features.tokens.offsets[rows] + start, features.tokens.offsets[rows] + end
        answers = []
        for question, (first, last) in enumerate(
            zip(features.window_offsets[:-1], features.window_offsets[1:], strict=True)
        ):
            window = first + int(best[first:last].argmax())
            found = np.isfinite(best[window])
            answers.append(self._text(features, question, starts[window], ends[window]) if found else "")
        return answers

    def score(self, gold: list[tuple[str, ...]], predicted: list[str], language: str) -> dict[str, float]:
        """F1 and exact match as SQuAD v1.1's script computes them, which TyDiQA-GoldP and XQuAD use in all languages.

        Args:
            gold: The right answers to each question.
            predicted: The answer given to each.
            language: Nothing: see `raylab.tasks.scoring.normalized_answer`.
        """
        return {"f1": answer_f1(gold, predicted), "em": exact_match(gold, predicted)}

    def _text(self, features: QuestionFeatures, question: int, start: int, end: int) -> str:
        context = features.contexts[features.context_of_question[question]]
        return context[features.characters[start, 0] : features.characters[end, 1]].strip()


QA = QuestionAnswering()


def _encoded(tokenizer: Tokenizer, contexts: list[str]) -> tuple[Ragged, np.ndarray]:
    """The tokens of each context, and the characters [start, end) of all of them [tokens, 2]."""
    found = [
        (np.array(ids, dtype=np.int64), np.array(spans, dtype=np.int64).reshape(-1, 2))
        for start in range(0, len(contexts), _CONTEXTS_AT_ONCE)
        for ids, spans in tokenizer.encode_spans(contexts[start : start + _CONTEXTS_AT_ONCE])
    ]
    lengths = np.array([len(ids) for ids, _ in found], dtype=np.int64)
    nothing = np.zeros((0, 2), dtype=np.int64)
    pieces = np.concatenate([nothing[:, 0], *(ids for ids, _ in found)])
    return Ragged(pieces, offsets_of(lengths)), np.concatenate([nothing, *(spans for _, spans in found)])


def _most_around(question_of_window: np.ndarray, first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whether each context token of each window has in it, of all windows of its question, the most tokens around.

    That is the lesser of the tokens to its left and to its right in the window; of equal windows the first counts.
    XTREME goes by their length before that, but only a question's last window is shorter than others.

    Args:
        question_of_window: [W]
        first: Each window's first token, within its context. [W]
        lengths: Each window's context tokens. [W]

    Returns:
        For the context tokens of all windows, one window after another.
    """
    window = np.repeat(np.arange(len(lengths)), lengths)
    left = within(lengths)
    around = np.minimum(left, lengths[window] - 1 - left)
    token = first[window] + left
    order = np.lexsort((window, -around, token, question_of_window[window]))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(token[order]) != 0) | (np.diff(question_of_window[window][order]) != 0)
    most = np.zeros(len(order), dtype=bool)
    most[order[new]] = True
    return most


def _spans(
    examples: list[Question], pieces: Ragged, characters: np.ndarray, context_of_question: np.ndarray
) -> np.ndarray:
    """First and last token of each question's first answer, within its context; `_NOWHERE` without one. [Q, 2]"""
    span = np.full((len(examples), 2), _NOWHERE, dtype=np.int64)
    for question, example in enumerate(examples):
        if not example.answers:
            continue
        text, start = example.answers[0]
        start += len(text) - len(text.lstrip())
        begin, end = pieces.offsets[context_of_question[question] :][:2]
        first = int(np.searchsorted(characters[begin:end, 1], start, side="right"))
        last = int(np.searchsorted(characters[begin:end, 0], start + len(text.strip()), side="left")) - 1
        if first <= last:
            span[question] = first, last
    return span


def _in_windows(
    span: np.ndarray, first: np.ndarray, lengths: np.ndarray, begins: np.ndarray, window_offsets: np.ndarray
) -> np.ndarray:
    """Answers as places in windows.

    Args:
        span: First and last token of the answer, within the context; `_NOWHERE` if there is none. [W, 2]
        first: Each window's first context token, within the context. [W]
        lengths: Its context tokens. [W]
        begins: Where they begin in the window. [W]
        window_offsets: Windows of each question. [Q + 1]

    Returns:
        [W, 2]: as `QuestionFeatures.span`.
    """
    holds = (span[:, 0] >= first) & (span[:, 1] < first + lengths) & (span[:, 0] != _NOWHERE)  # [W]
    places = np.where(holds[:, None], span - first[:, None] + begins[:, None], 0)
    held = np.add.reduceat(holds, window_offsets[:-1]) > 0  # [Q]
    places[~np.repeat(held, np.diff(window_offsets))] = IGNORED
    return places


def _best_pairs(
    logits: np.ndarray, may_start: np.ndarray, may_end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best start and end of each window.

    Args:
        logits: Minus infinity at padding. [B, T, 2]
        may_start: [B, T] bool
        may_end: [B, T] bool

    Returns:
        The sum of both logits, minus infinity without a pair; the start; and the end, within the window. [B] each
    """
    batch, length, _ = logits.shape
    best = np.argsort(-logits, axis=1, kind="stable")[:, :N_BEST]  # [B, n, 2]
    among_best = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(among_best, best, True, axis=1)
    start = np.where(among_best[..., 0] & may_start, logits[..., 0], -np.inf)  # [B, T]
    end = np.where(among_best[..., 1] & may_end, logits[..., 1], -np.inf)
    behind = np.concatenate([end, np.full((batch, LONGEST_ANSWER - 1), -np.inf)], axis=1)
    sums = start[..., None] + sliding_window_view(behind, LONGEST_ANSWER, axis=1)  # [B, T, 30]
    flat = sums.reshape(batch, length * LONGEST_ANSWER)
    chosen = flat.argmax(1)
    first, extra = np.divmod(chosen, LONGEST_ANSWER)
    return flat[np.arange(batch), chosen], first, first + extra
