from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylab.data.tokenizer import Tokenizer, train_tokenizer
from raylab.errors import InputError
from raylab.tasks import TASKS
from raylab.tasks.base import IGNORED
from raylab.tasks.qa import LONGEST_ANSWER, N_BEST, QuestionFeatures
from raylab.tasks.squad import Answer, Question

QA = TASKS["qa"]
with_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WORD = st.text("abcde", min_size=1, max_size=4)
TEXT = st.lists(st.one_of(WORD, st.sampled_from(["\u2602", "\u200b", "a.b"])), min_size=1, max_size=25).map(" ".join)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    context = draw(TEXT)
    start = draw(st.integers(0, len(context) - 1))
    text = context[start : draw(st.integers(start + 1, len(context)))]
    answers = (Answer(text, start),) if text.strip() else ()
    return Question(str(draw(st.integers())), draw(TEXT), context, answers, context)


LISTS = st.lists(questions(), min_size=1, max_size=4)


def rows_of(features: QuestionFeatures) -> list[list[int]]:
    tokens = features.tokens
    return [tokens.values[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() for row in range(len(tokens))]


def expected_windows(
    question: Question, tokenizer: Tokenizer, max_length: int, stride: int
) -> list[tuple[list[int], int, int]]:
    """The windows of one question, one after another, by hand: tokens, first context token, how many of them."""
    end = tokenizer.eos_id
    room = max_length - 3
    asked = tokenizer.encode(question.question)[: min(64, room // 2)]
    context = tokenizer.encode(question.context)
    room -= len(asked)
    starts = [0]
    while starts[-1] + room < len(context):
        starts.append(starts[-1] + room - min(stride, room * 3 // 4))
    parts = [(start, context[start : start + room]) for start in starts]
    return [([end, *asked, end, *part, end], start, len(part)) for start, part in parts]


def has_most_around(windows: list[tuple[list[int], int, int]], number: int, token: int) -> bool:
    """XTREME's `_new_check_is_max_context`."""
    best, best_score = -1, -1.0
    for other, (_, start, length) in enumerate(windows):
        if start <= token < start + length:
            score = min(token - start, start + length - 1 - token) + 0.01 * length
            if score > best_score:
                best, best_score = other, score
    return best == number


@given(LISTS, st.integers(5, 30), st.integers(0, 20))
@with_tokenizer
def test_windows_are_question_and_overlapping_parts_of_the_context(
    tokenizer: Tokenizer, examples: list[Question], max_length: int, stride: int
) -> None:
    features = QA.features(examples, tokenizer, max_length, stride)
    expected = [expected_windows(example, tokenizer, max_length, stride) for example in examples]
    assert rows_of(features) == [window for windows in expected for window, _, _ in windows]
    assert features.window_offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert features.tokens.lengths.max() <= max_length
    assert features.ids == [example.id for example in examples]
    may_start = [
        [False] * (len(window) - length - 1)
        + [has_most_around(windows, number, start + place) for place in range(length)]
        + [False]
        for windows in expected
        for number, (window, start, length) in enumerate(windows)
    ]
    assert features.may_start.tolist() == [allowed for window in may_start for allowed in window]


@given(LISTS, st.integers(5, 30), st.integers(0, 20))
@with_tokenizer
def test_targets_hold_the_answer_or_the_first_token(
    tokenizer: Tokenizer, examples: list[Question], max_length: int, stride: int
) -> None:
    features = QA.features(examples, tokenizer, max_length, stride)
    targets = QA.targets(features, QA.labels(features))
    assert targets.lengths.tolist() == [2] * len(features.tokens)
    for number, example in enumerate(examples):
        windows = range(*features.window_offsets[number : number + 2].tolist())
        spans = [targets.values[2 * window : 2 * window + 2].tolist() for window in windows]
        taught = [(window, span) for window, span in zip(windows, spans, strict=True) if span[0] > 0]
        if not taught:
            assert spans == [[IGNORED, IGNORED]] * len(spans)
        for window, (start, end) in taught:
            characters = features.characters[features.tokens.offsets[window] :]
            wanted = range(example.answers[0].start, example.answers[0].start + len(example.answers[0].text))
            inside = {c for c in wanted if not example.context[c].isspace()}
            held = set(range(characters[start, 0], characters[end, 1]))
            every = {c for token in tokenizer.encode_spans([example.context])[0][1] for c in range(*token)}
            assert inside & every <= held
            assert characters[start, 1] > min(inside)
            assert characters[end, 0] <= max(inside)
        assert all(span == [0, 0] for span in spans if span[0] <= 0 and taught)


def test_windows_start_as_far_apart_as_xtremes(tokenizer: Tokenizer) -> None:
    """XTREME: 384 subwords, windows 128 apart; with 13 subwords of question and 3 special tokens they share 240."""
    context = "ab " * 1500
    question = "a " * 13
    assert len(tokenizer.encode(question)) == 13
    features = QA.features([Question("1", question, context, (), "x")], tokenizer, 384, 240)
    assert features.tokens.lengths[0] == 384
    starts = [features.characters[start:end][:, 0].max() for start, end in pairwise(features.tokens.offsets[:4])]
    tokens = [span[0] for span in tokenizer.encode_spans([context])[0][1]]
    places = [tokens.index(start) for start in starts]
    assert np.diff(places).tolist() == [128, 128]


def official_answers(features: QuestionFeatures, question: int, logits: list[np.ndarray]) -> set[str]:
    """The best answer of `compute_predictions_logits`, pair by pair: all texts that have its score."""
    windows = range(*features.window_offsets[question : question + 2].tolist())
    spans = {
        window: {
            place: (start, end)
            for place, (start, end) in enumerate(
                features.characters[features.tokens.offsets[window] : features.tokens.offsets[window + 1]]
            )
            if start >= 0
        }
        for window in windows
    }
    context = features.contexts[features.context_of_question[question]]
    best, texts = -np.inf, {""}
    for window in windows:
        starts = sorted(range(len(logits[window])), key=lambda i: -logits[window][i, 0])[:N_BEST]
        ends = sorted(range(len(logits[window])), key=lambda i: -logits[window][i, 1])[:N_BEST]
        for start in starts:
            for end in ends:
                if start not in spans[window] or end not in spans[window]:
                    continue
                if not features.may_start[features.tokens.offsets[window] + start]:
                    continue
                if end < start or end - start + 1 > LONGEST_ANSWER:
                    continue
                score = float(logits[window][start, 0]) + float(logits[window][end, 1])
                text = context[spans[window][start][0] : spans[window][end][1]].strip()
                if score > best:
                    best, texts = score, set()
                if score == best:
                    texts.add(text)
    return texts


@given(LISTS, st.integers(5, 60), st.integers(0, 20), st.integers(0, 2**31))
@with_tokenizer
def test_predictions_are_those_of_a_search_pair_by_pair(
    tokenizer: Tokenizer, examples: list[Question], max_length: int, stride: int, seed: int
) -> None:
    features = QA.features(examples, tokenizer, max_length, stride)
    random = np.random.default_rng(seed)
    logits = [random.normal(size=(length, 2)).astype(np.float32) for length in features.tokens.lengths]
    outputs = []
    for rows in np.array_split(random.permutation(len(logits)), -(-len(logits) // 3)):
        padded = torch.full((len(rows), int(features.tokens.lengths[rows].max()), 2), 99.0)  # padding must not matter
        for place, row in enumerate(rows):
            padded[place, : len(logits[row])] = torch.from_numpy(logits[row])
        outputs.append((rows, padded))
    predicted = QA.predict(outputs, features, QA.labels(features))
    for number, text in enumerate(predicted):
        assert text in official_answers(features, number, logits)


def test_an_answer_is_paired_from_the_twenty_best_starts_and_ends(tokenizer: Tokenizer) -> None:
    example = Question("1", "abcde " * 20, "aa bb", (), "")
    features = QA.features([example], tokenizer, 64, 0)
    rows = np.array([0])
    logits = torch.zeros(1, int(features.tokens.lengths[0]), 2)
    in_context = torch.from_numpy(features.characters[:, 0] >= 0)
    logits[0, ~in_context] = 1.0
    logits[0, in_context] = torch.rand(int(in_context.sum()), 2)
    labels = QA.labels(features)
    assert (~in_context).sum() > N_BEST
    assert QA.predict([(rows, logits)], features, labels) == [""]
    logits[0, in_context] += 1.0
    assert QA.predict([(rows, logits)], features, labels) != [""]


def test_windows_stand_between_the_tokenizers_own_tokens(framing_tokenizer: Tokenizer) -> None:
    context = "abcde"
    features = QA.features([Question("1", "ee", context, (Answer("d", 3),), "")], framing_tokenizer, 9, 1)
    assert rows_of(features) == [[2, 11, 11, 3, 4, 7, 8, 9, 5], [2, 11, 11, 3, 4, 9, 10, 11, 5]]
    assert QA.targets(features, QA.labels(features)).values.tolist() == [0, 0, 6, 6]
    assert QA.predict(oracle(features), features, QA.labels(features)) == ["d"]


def oracle(features: QuestionFeatures) -> list[tuple[np.ndarray, Tensor]]:
    """Outputs that are right at every target."""
    targets = QA.targets(features, QA.labels(features))
    outputs = []
    for rows in np.array_split(np.arange(len(features.tokens)), -(-len(features.tokens) // 16)):
        logits = torch.zeros(len(rows), int(features.tokens.lengths[rows].max()), 2)
        for place, row in enumerate(rows):
            start, end = targets.values[2 * row : 2 * row + 2]
            if start > 0:
                logits[place, start, 0] = logits[place, end, 1] = 9.0
        outputs.append((rows, logits))
    return outputs


def test_answer_is_the_exact_text_of_the_context(tokenizer: Tokenizer) -> None:
    context = "aa  bb\n(cc) \u2602dd, ee"
    example = Question("1", "ab?", context, (Answer("bb\n(cc) \u2602dd", 4),), context)
    features = QA.features([example], tokenizer, 64, 0)
    assert QA.predict(oracle(features), features, QA.labels(features)) == ["bb\n(cc) \u2602dd"]


@given(LISTS)
@with_tokenizer
def test_right_outputs_give_every_answer_that_tokens_hold(tokenizer: Tokenizer, examples: list[Question]) -> None:
    features = QA.features(examples, tokenizer, 512, 0)
    labels = QA.labels(features)
    predicted = QA.predict(oracle(features), features, labels)
    wrong = 0
    for example, text, (first, last) in zip(examples, predicted, features.span.tolist(), strict=True):
        if first > 0 and last - first < LONGEST_ANSWER:
            wrong += text != example.answers[0].text.strip()
    counts = QA.counts(features, labels)
    assert counts["questions"] == len(examples)
    assert counts["cut_answers"] == (features.span[:, 0] <= 0).sum()
    assert wrong <= counts["inexact_answers"]


def test_loss_is_the_mean_of_start_and_end_and_does_not_see_padding() -> None:
    logits = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 3], [0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    chosen = -torch.stack([logits[0].log_softmax(0)[1, 0], logits[0].log_softmax(0)[3, 1]])
    short = -logits[1, :2].log_softmax(0)[0]
    expected = (chosen.sum() + short.sum()) / 4
    torch.testing.assert_close(QA.loss(logits, targets, mask), expected)
    logits[1, 2:] = 1e4
    torch.testing.assert_close(QA.loss(logits, targets, mask), expected)
    torch.testing.assert_close(
        QA.loss(torch.cat([logits, torch.randn(2, 3, 2)], 1), targets, torch.nn.functional.pad(mask, (0, 3))), expected
    )
    ignored = torch.tensor([[1, 3], [IGNORED, IGNORED]])
    torch.testing.assert_close(QA.loss(logits, ignored, mask), chosen.mean())


def test_head_has_two_outputs_a_token(tokenizer: Tokenizer) -> None:
    features = QA.features([Question("1", "a", "b", (), "b")], tokenizer, 16, 0)
    assert QA.head(8, QA.labels(features), 0.1)(torch.zeros(3, 5, 8)).shape == (3, 5, 2)


def test_counts_say_what_is_lost(tokenizer: Tokenizer) -> None:
    long = " ".join(["ab"] * 40)
    examples = [
        Question("1", "a " * 80, "ab cd", (Answer("b", 1),), "x", repaired=2),
        Question("2", "a", long, (Answer(long[3:-3], 3),), "x"),
    ]
    features = QA.features(examples, tokenizer, 36, 8)
    counts = QA.counts(features, QA.labels(features))
    assert counts["repaired_answers"] == 2
    assert counts["cut_questions"] == 1
    assert counts["windows"] == len(features.tokens) > 2
    assert counts["cut_answers"] == 1
    assert counts["inexact_answers"] == 1


def test_length_without_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"finetune\.max_length: 4 leaves no room .* at least 5 would"):
        QA.features([Question("1", "a", "b", (), "b")], tokenizer, 4, 0)


@pytest.mark.parametrize("language", ["en", "ar"])
def test_gold_tokens_of_real_data_give_the_gold_answers(
    kit: Path, language: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tmp_path_factory.mktemp("real") / "tokenizer.model"
    lines = (kit / "text" / language / "train.txt").read_text(encoding="utf-8").split("\n")[:4000]
    train_tokenizer(lines, model, 4000)
    examples = QA.read(kit / "qa" / language / "test.json")
    features = QA.features(examples, Tokenizer.load(model), 128, 32)
    labels = QA.labels(features)
    scores = QA.score(features.gold, QA.predict(oracle(features), features, labels), language)
    assert scores["f1"] > 95
    assert scores["em"] >= 100 - 100 * QA.counts(features, labels)["inexact_answers"] / len(examples) - 5
