"""Tiny models of transformers with random weights, and tokenizers trained on made-up sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

SENTENCES = [
    f"the {adjective} {animal} sees a {place}, and it's {end}."
    for adjective, animal, place, end in product(
        ["big", "small", "old", "नया"], ["cat", "dog", "घर", "мир"], ["tree", "house", "नदी"], ["good", "Bad", "हाँ"]
    )
]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
XLM_SIZES = {"emb_dim": 16, "n_layers": 2, "n_heads": 4}
POSITIONS = 20  # of every model, as transformers' users count them


def wordpiece(folder: Path) -> int:
    """A BERT vocabulary; its size is returned, as by the next two."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(lowercase=False)
    tokenizer.train_from_iterator(SENTENCES, vocab_size=120, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    return tokenizer.get_vocab_size()


def unigram(folder: Path) -> int:
    """An XLM-R tokenizer: a SentencePiece model, whose pieces get ids one higher, and a <mask> behind."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=70,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "sentencepiece.bpe.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model")).vocab_size() + 2


def xlm_bpe(folder: Path) -> int:
    """An XLM vocabulary and merges; subwords that stand at no place in the text are not in the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer=trainer)
    tokenizer.model.save(str(folder))
    used = {token for found in tokenizer.encode_batch(SENTENCES) for token in found.tokens}
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(used - set(special))])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return len(vocabulary)


def build_bert(folder: Path) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(vocab_size=wordpiece(folder), max_position_embeddings=POSITIONS, **SIZES))


def build_distilbert(folder: Path) -> Any:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    sizes = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}
    return DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=wordpiece(folder), max_position_embeddings=POSITIONS, **sizes)
    )


def build_deberta(folder: Path) -> Any:
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    size = wordpiece(folder)
    own = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    attention = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    return DebertaV2ForMaskedLM(
        DebertaV2Config(
            vocab_size=size,
            max_position_embeddings=POSITIONS,
            type_vocab_size=0,
            position_buckets=8,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            **attention,
            **SIZES,
        )
    )


def build_xlm_roberta(folder: Path) -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    return XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=unigram(folder), max_position_embeddings=POSITIONS + 2, type_vocab_size=1, **SIZES)
    )


def build_xmod(folder: Path) -> Any:
    from transformers import XmodConfig, XmodForMaskedLM

    return XmodForMaskedLM(
        XmodConfig(
            vocab_size=unigram(folder),
            max_position_embeddings=POSITIONS + 2,
            type_vocab_size=1,
            languages=["en_XX", "sw_KE", "hi_IN"],
            pre_norm=True,
            **SIZES,
        )
    )


def build_xlm(folder: Path) -> Any:
    from transformers import XLMConfig, XLMWithLMHeadModel

    return XLMWithLMHeadModel(
        XLMConfig(
            vocab_size=xlm_bpe(folder),
            max_position_embeddings=POSITIONS,
            n_langs=100,
            use_lang_emb=False,
            **XLM_SIZES,
        )
    )


def build_xlm_with_languages(folder: Path) -> Any:
    from transformers import XLMConfig, XLMWithLMHeadModel

    config = XLMConfig(vocab_size=xlm_bpe(folder), max_position_embeddings=POSITIONS, n_langs=3, **XLM_SIZES)
    config.lang2id = {"en": 1, "sw": 0, "hi": 2}
    return XLMWithLMHeadModel(config)


BUILDERS: dict[str, Callable[[Path], Any]] = {
    "bert": build_bert,
    "deberta": build_deberta,
    "distilbert": build_distilbert,
    "xlm": build_xlm,
    "xlm_roberta": build_xlm_roberta,
    "xlm_with_languages": build_xlm_with_languages,
    "xmod": build_xmod,
}


@pytest.fixture(scope="session")
def external(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a model by the name of its kind; never to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model = BUILDERS[kind](folder)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)  # biases and norms too, that they count
            model.save_pretrained(folder)
            made[kind] = folder
        return made[kind]

    return get


@pytest.fixture(scope="session")
def stored(external: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder into which such a model was imported; never to be changed."""
    from raylab.model import import_model

    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(f"{kind}_stored")
            import_model(str(external(kind)), made[kind])
        return made[kind]

    return get
