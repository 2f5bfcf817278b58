"""Checkpoints of raylab, opened by transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer

from raylab.config import ModelConfig
from raylab.data.tokenizer import Tokenizer, train_tokenizer
from raylab.model import Encoder, save_tokenizer
from raylab.model.modules import PER_LANGUAGE

VOCAB_SIZE = 50
LANGUAGES = ("te", "en")


def make_encoder(variant: str) -> Encoder:
    torch.manual_seed(0)
    sizes = ModelConfig(num_layers=2, dim=16, num_heads=4, head_dim=6, ffn_dim=32, max_length=12, adapter_ratio=0.5)
    encoder = Encoder(sizes, VOCAB_SIZE, LANGUAGES, variant).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # so that languages differ
    return encoder


def make_batch() -> tuple[Tensor, Tensor]:
    input_ids = torch.randint(5, VOCAB_SIZE, (3, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(input_ids)
    mask[1, 5:] = 0
    return input_ids, mask


@pytest.mark.parametrize("variant", PER_LANGUAGE)
def test_hidden_states_and_logits_are_the_encoders(variant: str, tmp_path: Path) -> None:
    encoder = make_encoder(variant)
    encoder.save_pretrained(tmp_path)
    model, loading = AutoModel.from_pretrained(tmp_path, trust_remote_code=False, output_loading_info=True)
    masked_lm = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    input_ids, mask = make_batch()
    for language in LANGUAGES:
        for attention_mask in (mask, None):
            expected = encoder(input_ids, attention_mask, language)
            found = model(input_ids, attention_mask=attention_mask, language=language)
            assert torch.equal(found.last_hidden_state, expected)
            logits = masked_lm(input_ids, attention_mask=attention_mask, language=language).logits
            assert torch.equal(logits, encoder.mlm_logits(expected))


def test_loss_is_of_the_labels(tmp_path: Path) -> None:
    encoder = make_encoder("adapter")
    encoder.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    input_ids, mask = make_batch()
    labels = torch.full_like(input_ids, -100)
    labels[0, 2], labels[2, 7] = 9, 11
    found = model(input_ids, mask, labels=labels, language="en")
    chosen = encoder.mlm_logits(encoder(input_ids, mask, "en"))[[0, 2], [2, 7]]
    torch.testing.assert_close(found.loss, F.cross_entropy(chosen, torch.tensor([9, 11])))
    found.loss.backward()
    gradient = model.encoder.layers[0].get_parameter("attention_adapter.lang_en.down.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_tuples_on_request(tmp_path: Path) -> None:
    make_encoder("joint").save_pretrained(tmp_path)
    input_ids, mask = make_batch()
    model = AutoModel.from_pretrained(tmp_path)
    (hidden,) = model(input_ids, mask, return_dict=False)
    assert torch.equal(hidden, model(input_ids, mask).last_hidden_state)
    loss, logits = AutoModelForMaskedLM.from_pretrained(tmp_path)(input_ids, mask, labels=input_ids, return_dict=False)
    assert loss.shape == ()
    assert logits.shape == (3, 8, VOCAB_SIZE)


def test_default_language(tmp_path: Path) -> None:
    """The first, unless the caller names another when the model is opened, or later."""
    encoder = make_encoder("adapter")
    encoder.save_pretrained(tmp_path)
    input_ids, mask = make_batch()
    english, telugu = encoder(input_ids, mask, "en"), encoder(input_ids, mask, "te")
    assert not torch.allclose(english, telugu)
    model = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(model(input_ids, mask).last_hidden_state, telugu)
    model.config.default_language = "en"
    assert torch.equal(model(input_ids, mask).last_hidden_state, english)
    model = AutoModel.from_pretrained(tmp_path, default_language="en")
    assert torch.equal(model(input_ids, mask).last_hidden_state, english)
    with pytest.raises(ValueError, match=r"no language 'sw'; it has te, en"):
        model(input_ids, mask, language="sw")


def test_configuration_has_transformers_names(tmp_path: Path) -> None:
    encoder = make_encoder("adapter")
    encoder.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.model_type, config.variant, tuple(config.languages)) == ("raylab", "adapter", LANGUAGES)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 4)
    assert (config.intermediate_size, config.max_position_embeddings, config.vocab_size) == (32, 12, VOCAB_SIZE)
    assert config.encoder_config() == encoder.config


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM])
@pytest.mark.parametrize("variant", ["mono", "attn", "meta_adapter"])
def test_there_and_back(kind: type, variant: str, tmp_path: Path) -> None:
    """What transformers writes, changed weights and all, raylab opens."""
    encoder = make_encoder(variant)
    encoder.save_pretrained(tmp_path / "ours")
    model = kind.from_pretrained(tmp_path / "ours")  # type: ignore[attr-defined]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(tmp_path / "theirs")
    loaded = Encoder.from_pretrained(tmp_path / "theirs")
    assert (loaded.config, loaded.languages, loaded.variant) == (encoder.config, encoder.languages, encoder.variant)
    ours = encoder.state_dict()
    assert loaded.state_dict().keys() == ours.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, 1.5 * ours[name])
    again = kind.from_pretrained(tmp_path / "theirs")  # type: ignore[attr-defined]
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_new_models_from_a_configuration() -> None:
    from raylab.model.auto.config import RaylabConfig

    model = AutoModel.from_config(RaylabConfig(languages=["en"], variant="mono", vocab_size=30, dim=16, ffn_dim=32))
    assert model(torch.zeros(1, 4, dtype=torch.long)).last_hidden_state.shape == (1, 4, 16)
    assert model.get_input_embeddings().weight.shape == (30, 16)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a tokenizer of English and Telugu."""
    folder = tmp_path_factory.mktemp("checkpoint")
    sentences = [
        f"the {n % 17} cats of {n % 5} \N{TELUGU LETTER MA}\N{TELUGU VOWEL SIGN II}రు ఇల్లు {n}." for n in range(300)
    ]
    train_tokenizer(sentences, folder / "given.model", 80)
    sizes = ModelConfig(num_layers=1, dim=16, num_heads=2, ffn_dim=32, max_length=12)
    Encoder(sizes, 80, LANGUAGES, "adapter").save_pretrained(folder / "model")
    save_tokenizer(folder / "given.model", folder / "model")
    return folder


TEXTS = ["the cats", "మీరు 12 ఇల్లు.", "unseen: ñ 中国\u200b!", "  two  spaces\tand a tab ", "", "▁"]


def test_tokenizer_gives_the_same_ids(checkpoint: Path) -> None:
    ours = Tokenizer.load(checkpoint / "given.model")
    theirs = AutoTokenizer.from_pretrained(checkpoint / "model")
    assert theirs(TEXTS, add_special_tokens=False)["input_ids"] == ours.encode_batch(TEXTS)
    first, second = ours.encode(TEXTS[0]), ours.encode(TEXTS[1])
    assert theirs(TEXTS[0])["input_ids"] == [*ours.begin, *first, *ours.end]
    assert theirs(TEXTS[0], TEXTS[1])["input_ids"] == [*ours.begin, *first, *ours.between, *second, *ours.end]
    ids = (theirs.pad_token_id, theirs.unk_token_id, theirs.eos_token_id, theirs.mask_token_id, len(theirs))
    assert ids == (ours.pad_id, ours.unk_id, ours.eos_id, ours.mask_id, ours.vocab_size)
    assert theirs("the <mask>")["input_ids"][-2] == ours.mask_id
    assert theirs("the <mask>", split_special_tokens=True, add_special_tokens=False)["input_ids"] == ours.encode(
        "the <mask>"
    )
    assert theirs.decode(ours.encode("the cats")) == "the cats"


def test_tokenizer_and_model_go_together(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "model")
    batch = tokenizer(
        ["the cats of the cats of the cats of 12", "the"], padding=True, truncation=True, return_tensors="pt"
    )
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].shape == (2, 12)  # the model's longest
    hidden = AutoModel.from_pretrained(checkpoint / "model")(**batch, language="en").last_hidden_state
    expected = Encoder.from_pretrained(checkpoint / "model")(batch["input_ids"], batch["attention_mask"], "en")
    assert torch.equal(hidden, expected)


def test_tokenizer_survives_saving(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "model")
    AutoModel.from_pretrained(checkpoint / "model").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert (again.pad_token_id, again.mask_token_id, again.model_max_length) == (0, 4, 12)


def test_special_tokens_that_a_model_file_lacks(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"the {n % 17} cats of {n % 5}" for n in range(300)]),
        model_prefix=str(tmp_path / "given"),
        vocab_size=40,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    ours = Tokenizer.load(tmp_path / "given.model")
    make_encoder("joint").save_pretrained(tmp_path)
    save_tokenizer(tmp_path / "given.model", tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    for tokenizer in (theirs, AutoTokenizer.from_pretrained(tmp_path / "again")):
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id, len(tokenizer))
        assert ids == (ours.pad_id, ours.eos_id, ours.mask_id, ours.vocab_size)
        assert tokenizer("the cats <mask>", add_special_tokens=False)["input_ids"] == [
            *ours.encode("the cats"),
            ours.mask_id,
        ]


def run(program: str) -> None:
    """Run a program of its own: what it imports and when is what is tested."""
    subprocess.run([sys.executable, "-c", f"if True:\n{program}"], check=True)


def test_import_of_raylab_does_not_import_transformers() -> None:
    run("""
        import sys
        import raylab, raylab.model, raylab.train.finetune
        assert not {"transformers", "tokenizers", "huggingface_hub"} & set(sys.modules)
        import raylab.errors
        assert "torch" in sys.modules
    """)
    run("""
        import sys
        import raylab
        assert not {"torch", "transformers"} & set(sys.modules)
    """)


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import raylab; from transformers import AutoModel",
        "from transformers import AutoModel; import raylab",
        "import raylab; import transformers.modeling_utils; from transformers import AutoModel",
    ],
)
def test_any_order_of_imports(imports: str, checkpoint: Path) -> None:
    run(f"""
        {imports}
        assert type(AutoModel.from_pretrained({str(checkpoint / "model")!r})).__name__ == "RaylabModel"
    """)


@pytest.mark.slow
def test_tokenizer_alone(checkpoint: Path) -> None:
    run(f"""
        import raylab
        from transformers import AutoTokenizer
        assert type(AutoTokenizer.from_pretrained({str(checkpoint / "model")!r})).__name__ == "RaylabTokenizer"
    """)


@pytest.mark.slow
def test_without_raylab_transformers_refuses(checkpoint: Path) -> None:
    run(f"""
        from transformers import AutoModel
        try:
            AutoModel.from_pretrained({str(checkpoint / "model")!r})
        except ValueError as error:
            assert "raylab" in str(error)
        else:
            raise AssertionError
    """)


def test_encoder_opens_older_and_newer_configurations(tmp_path: Path) -> None:
    """Fields that transformers adds do not matter, nor do those that have a default."""
    make_encoder("joint").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    del description["adapter_activation"]
    path.write_text(json.dumps({**description, "transformers_version": "5", "architectures": ["RaylabModel"]}))
    assert Encoder.from_pretrained(tmp_path).config.adapter_activation == "gelu"
