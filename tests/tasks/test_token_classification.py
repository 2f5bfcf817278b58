from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.tasks import TASKS, get_task
from raylab.tasks.base import IGNORED, Labels
from raylab.tasks.token_classification import Sentence, TokenFeatures

NER, POS = TASKS["ner"], TASKS["pos"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
WORDS = st.one_of(st.text("abcde", min_size=1, max_size=6), st.just("\u200b"), st.just(""), st.just("\u2602"))
SENTENCES = st.lists(
    st.lists(st.tuples(WORDS, st.sampled_from(TAGS)), min_size=1, max_size=8).map(
        lambda pairs: Sentence(tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs))
    ),
    min_size=1,
    max_size=6,
)
with_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def oracle(features: TokenFeatures, labels: Labels, batch_size: int = 2) -> list[tuple[np.ndarray, Tensor]]:
    """Outputs that are right at every target, in batches of sequences in reverse order."""
    targets = NER.targets(features, labels)
    outputs = []
    for rows in np.array_split(np.arange(len(features.tokens))[::-1], -(-len(features.tokens) // batch_size)):
        padded = torch.from_numpy(targets.padded(rows, IGNORED))
        outputs.append((rows, torch.nn.functional.one_hot(padded.clamp(min=0), len(labels.names)).float()))
    return outputs


@given(SENTENCES, st.integers(3, 20))
@with_tokenizer
def test_sequences_are_cut_sentences_between_ends(
    tokenizer: Tokenizer, sentences: list[Sentence], max_length: int
) -> None:
    features = NER.features(sentences, tokenizer, max_length, 0)
    for row, sentence in enumerate(sentences):
        pieces = [piece for word in tokenizer.encode_words(sentence.words) for piece in word][: max_length - 2]
        sequence = features.tokens.padded(np.array([row]), fill=tokenizer.pad_id)[0].tolist()
        assert sequence == [tokenizer.eos_id, *pieces, tokenizer.eos_id]


@given(SENTENCES, st.integers(3, 20))
@with_tokenizer
def test_targets_stand_at_first_subwords_alone(
    tokenizer: Tokenizer, sentences: list[Sentence], max_length: int
) -> None:
    features = NER.features(sentences, tokenizer, max_length, 0)
    labels = NER.labels(features)
    targets = NER.targets(features, labels)
    for row, sentence in enumerate(sentences):
        expected = [IGNORED]
        for pieces, tag in zip(tokenizer.encode_words(sentence.words), sentence.tags, strict=True):
            expected += [labels.names.index(tag), *[IGNORED] * (len(pieces) - 1)] if pieces else []
        expected = [*expected[: max_length - 1], IGNORED]
        assert targets.padded(np.array([row]), IGNORED)[0].tolist() == expected


@given(SENTENCES, st.integers(3, 20))
@with_tokenizer
def test_right_outputs_give_gold_tags_but_for_words_without_subword(
    tokenizer: Tokenizer, sentences: list[Sentence], max_length: int
) -> None:
    features = NER.features(sentences, tokenizer, max_length, 0)
    labels = NER.labels(features)
    predicted = NER.predict(oracle(features, labels), features, labels)
    dropped = cut = 0
    for tags, sentence in zip(predicted, sentences, strict=True):
        place = 0
        for tag, gold, pieces in zip(tags, sentence.tags, tokenizer.encode_words(sentence.words), strict=True):
            if not pieces:
                dropped += 1
            elif place >= max_length - 2:
                cut += 1
            assert tag == (gold if pieces and place < max_length - 2 else "O")
            place += len(pieces)
    counts = NER.counts(features, labels)
    assert (counts["dropped_words"], counts["cut_words"]) == (dropped, cut)
    assert counts["words"] == sum(len(sentence.words) for sentence in sentences)


def test_sequences_stand_between_the_tokenizers_own_tokens(framing_tokenizer: Tokenizer) -> None:
    features = NER.features([Sentence(("ab", "c"), ("O", "O"))], framing_tokenizer, 5, 0)
    assert features.tokens.values.tolist() == [2, 7, 8, 9, 5]
    assert NER.targets(features, NER.labels(features)).values.tolist() == [IGNORED, 0, IGNORED, 0, IGNORED]
    assert NER.features([Sentence(("ab", "c"), ("O", "O"))], framing_tokenizer, 4, 0).tokens.values.tolist() == [
        2,
        7,
        8,
        5,
    ]


def test_length_without_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"finetune\.max_length: 2 leaves no room .*; at least 3 would"):
        NER.features([Sentence(("a",), ("O",))], tokenizer, 2, 0)


def test_pos_falls_back_on_the_most_frequent_tag(tokenizer: Tokenizer) -> None:
    train = POS.features([Sentence(("a", "b", "c"), ("VERB", "NOUN", "VERB"))], tokenizer, 32, 0)
    test = POS.features([Sentence(("\u200b", "a"), ("NOUN", "NOUN"))], tokenizer, 32, 0)
    labels = POS.labels(train)
    assert labels == Labels(("NOUN", "VERB"), "VERB")
    assert POS.predict(oracle(test, labels), test, labels) == [["VERB", "NOUN"]]


def test_tag_that_training_lacks_is_wrong_and_counted(tokenizer: Tokenizer) -> None:
    train = POS.features([Sentence(("a", "b"), ("NOUN", "VERB"))], tokenizer, 32, 0)
    test = POS.features([Sentence(("a", "b", "c"), ("ADV", "VERB", "ADV"))], tokenizer, 32, 0)
    labels = POS.labels(train)
    counts = POS.counts(test, labels)
    assert (counts["unknown_tags"], counts["unknown_tags/ADV"]) == (2, 2)
    assert POS.counts(train, labels)["unknown_tags"] == 0
    assert (POS.targets(test, labels).values != IGNORED).sum() == 1
    predicted = POS.predict(oracle(test, labels), test, labels)
    assert test.gold == [["ADV", "VERB", "ADV"]]
    assert POS.score(test.gold, predicted, "en")["accuracy"] == pytest.approx(100 / 3)


def test_repaired_tags_are_counted(tokenizer: Tokenizer) -> None:
    features = NER.features([Sentence(("a",), ("B-PER",), 1), Sentence(("b", "c"), ("O", "O"), 2)], tokenizer, 32, 0)
    assert NER.counts(features, NER.labels(features))["repaired_tags"] == 3


def test_loss_is_the_mean_over_targets(tokenizer: Tokenizer) -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, IGNORED, 3], [IGNORED, 0, IGNORED]])
    chosen = -logits.log_softmax(-1)
    expected = (chosen[0, 0, 1] + chosen[0, 2, 3] + chosen[1, 1, 0]) / 3
    torch.testing.assert_close(NER.loss(logits, targets), expected)


def test_head_has_one_output_a_label() -> None:
    head = NER.head(8, Labels(("B-PER", "O"), "O"), dropout=0.1)
    assert head(torch.zeros(2, 5, 8)).shape == (2, 5, 2)


def test_unknown_task_is_refused() -> None:
    assert get_task("ner") is NER
    with pytest.raises(InputError, match="no task 'mt'; one of ner, pos, qa, nli"):
        get_task("mt")
