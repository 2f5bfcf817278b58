from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raylab.config import ModelConfig
from raylab.data.masking import predicted
from raylab.errors import InputError
from raylab.model import Encoder

VOCAB_SIZE = 50
SMALL = ModelConfig(num_layers=2, dim=16, num_heads=4, ffn_dim=32, dropout=0.0, max_length=12)
# Parts of the model that exist once per language, by variant.
OWN_PARTS: dict[str, set[str]] = {
    "mono": set(),
    "joint": set(),
    "ffn": {"feed_forward"},
    "attn": {"attention"},
    "norm": {"norm", "attention_norm", "feed_forward_norm"},
    "adapter": {"attention_adapter", "feed_forward_adapter"},
    "shared_adapter": set(),
    "meta_adapter": {"attention_adapter", "feed_forward_adapter"},
    "pcgrad": set(),
    "gradvac": set(),
}


def make_encoder(variant: str = "joint", languages: tuple[str, ...] = ("ar", "te"), **changes: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(SMALL.model_copy(update=changes), VOCAB_SIZE, languages, variant)


def make_batch(rows: int = 3, length: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, VOCAB_SIZE, (rows, length), generator=generator)
    chosen = torch.rand(rows, length, generator=generator) < 0.3
    return tokens.masked_fill(chosen, 4), tokens.masked_fill(~chosen, -100)


def train_step(encoder: Encoder, language: str) -> set[str]:
    """Names of the parameters that a step of Adam on a batch of this language changes."""
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    inputs, labels = make_batch()
    encoder.mlm_loss(inputs, *predicted(labels), language).backward()
    optimizer.step()
    return {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize("variant", OWN_PARTS)
def test_parameters_split_into_shared_and_specific(variant: str) -> None:
    encoder = make_encoder(variant)
    assert encoder.language_specific_parameters().keys() == {
        *encoder.specific_parameters("ar"),
        *encoder.specific_parameters("te"),
    }
    groups: list[Mapping[str, Tensor]] = [
        encoder.shared_parameters(),
        encoder.specific_parameters("ar"),
        encoder.specific_parameters("te"),
    ]
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(dict(encoder.named_parameters()))  # each once
    assert all(parameter is encoder.get_parameter(name) for group in groups for name, parameter in group.items())
    assert {name.split(".lang_ar.")[0].split(".")[-1] for name in groups[1]} == OWN_PARTS[variant]
    assert [p.shape for p in groups[1].values()] == [p.shape for p in groups[2].values()]


def test_adapters_where_a_variant_has_them() -> None:
    plain = len(list(make_encoder("joint").parameters()))
    sublayers = 2 * SMALL.num_layers
    matrices = 2
    assert len(list(make_encoder("mono").parameters())) == plain
    assert len(list(make_encoder("shared_adapter").parameters())) == plain + matrices * sublayers
    assert len(list(make_encoder("adapter").parameters())) == plain + 2 * matrices * sublayers
    shapes = {tuple(p.shape) for p in make_encoder("adapter", adapter_ratio=0.5).specific_parameters("ar").values()}
    assert shapes == {(8, 16), (16, 8)}


def test_every_layer_norm_has_a_copy_per_language() -> None:
    encoder = make_encoder("norm")
    sizes = [p.numel() for p in encoder.specific_parameters("ar").values()]
    assert sizes == [SMALL.dim] * (2 * (1 + 2 * SMALL.num_layers))  # weight and bias, of embeddings and two a layer
    assert not [name for name in encoder.shared_parameters() if "norm" in name]


@pytest.mark.parametrize("variant", ["ffn", "attn", "norm", "adapter", "meta_adapter"])
def test_step_changes_own_and_shared_parameters_only(variant: str) -> None:
    encoder = make_encoder(variant)  # `te` is in "adap-te-r", which must not make it Telugu's
    changed = train_step(encoder, "te")
    assert changed == {*encoder.shared_parameters(), *encoder.specific_parameters("te")}


def test_language_named_like_an_attribute_of_a_module() -> None:
    encoder = make_encoder("adapter", languages=("to", "keys", "en"))
    assert train_step(encoder, "to").isdisjoint(encoder.specific_parameters("keys"))


@pytest.mark.parametrize("variant", OWN_PARTS)
def test_output_depends_on_language_iff_it_has_own_parameters(variant: str) -> None:
    encoder = make_encoder(variant).eval()
    inputs, _ = make_batch()
    for parameter in encoder.specific_parameters("te").values():
        torch.nn.init.normal_(parameter)  # layer norms begin alike
    same = torch.equal(encoder(inputs, None, "ar"), encoder(inputs, None, "te"))
    assert same == (not OWN_PARTS[variant])


def test_adapters_start_near_the_identity() -> None:
    adapted = make_encoder("adapter").eval()
    plain = make_encoder("joint").eval()
    plain.load_state_dict({name: adapted.state_dict()[name] for name in plain.state_dict()})
    inputs, _ = make_batch()
    torch.testing.assert_close(adapted(inputs, None, "ar"), plain(inputs, None, "ar"), atol=5e-3, rtol=0.0)


def test_adapter_is_equations_6_and_7() -> None:
    adapter = make_encoder("adapter", adapter_activation="relu").layers[0].get_submodule("attention_adapter.lang_te")
    z = torch.randn(2, 3, SMALL.dim)
    down, up = adapter.get_parameter("down.weight"), adapter.get_parameter("up.weight")
    torch.testing.assert_close(adapter(z), torch.relu(z @ down.T) @ up.T + z)


@pytest.mark.parametrize("variant", ["mono", "adapter"])
def test_unknown_language_names_the_known_ones(variant: str) -> None:
    encoder = make_encoder(variant, languages=("ar",))
    with pytest.raises(ValueError, match=r"'sw'.*ar"):
        encoder(make_batch()[0], None, "sw")
    with pytest.raises(ValueError, match=r"'sw'.*ar"):
        encoder.specific_parameters("sw")


@pytest.mark.parametrize(("languages", "variant"), [((), "joint"), (("en", "en"), "joint"), (("en",), "joined")])
def test_bad_construction_is_refused(languages: tuple[str, ...], variant: str) -> None:
    with pytest.raises(ValueError, match=r"languages|variant"):
        make_encoder(variant, languages)


def test_too_long_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"13 tokens.*12"):
        make_encoder()(torch.zeros(1, 13, dtype=torch.long), None, "ar")


def test_padding_changes_nothing() -> None:
    encoder = make_encoder("adapter").eval()
    inputs, _ = make_batch(length=8)
    padded = F.pad(inputs, (0, 3), value=7)
    mask = torch.arange(11).expand(3, 11) < 8
    torch.testing.assert_close(encoder(padded, mask, "te")[:, :8], encoder(inputs, None, "te"))
    assert not torch.allclose(encoder(padded, None, "te")[:, :8], encoder(inputs, None, "te"))


def test_masked_only_loss_is_the_full_cross_entropy() -> None:
    encoder = make_encoder("adapter").double()
    inputs, labels = make_batch()
    loss = encoder.mlm_loss(inputs, *predicted(labels), "te")
    logits = encoder.mlm_logits(encoder(inputs, None, "te"))  # [B, T, V]
    full = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    torch.testing.assert_close(loss, full)
    gradients = [torch.autograd.grad(value, encoder.tokens.weight)[0] for value in (loss, full)]
    torch.testing.assert_close(*gradients)


def test_loss_of_a_batch_with_nothing_to_predict_is_zero() -> None:
    encoder = make_encoder()
    loss = encoder.mlm_loss(make_batch()[0], *predicted(torch.full((3, 8), -100)), "ar")
    loss.backward()
    assert loss.item() == 0.0
    assert not any(parameter.grad.any() for parameter in encoder.parameters() if parameter.grad is not None)


def test_attention_weights_have_their_own_dropout() -> None:
    inputs, _ = make_batch()

    def hidden(seed: int, **dropout: float | None) -> Tensor:
        encoder = make_encoder(**dropout)
        torch.manual_seed(seed)
        return encoder(inputs, None, "ar")

    assert torch.equal(hidden(1, dropout=0.3), hidden(1, dropout=0.3, attention_dropout=0.3))  # the default
    assert not torch.equal(hidden(1, dropout=0.3), hidden(1, dropout=0.3, attention_dropout=0.0))
    assert torch.equal(hidden(1, attention_dropout=0.0), hidden(2, attention_dropout=0.0))
    assert not torch.equal(hidden(1, attention_dropout=0.3), hidden(2, attention_dropout=0.3))


@pytest.mark.parametrize("variant", ["mono", "adapter"])
def test_save_and_load(variant: str, tmp_path: Path) -> None:
    encoder = make_encoder(variant, languages=("te",), head_dim=6, adapter_activation="gelu").eval()
    encoder.save_pretrained(tmp_path / "model")
    loaded = Encoder.from_pretrained(tmp_path / "model")
    inputs, _ = make_batch()
    assert torch.equal(loaded(inputs, None, "te"), encoder(inputs, None, "te"))
    assert (loaded.config, loaded.languages, loaded.variant) == (encoder.config, encoder.languages, encoder.variant)
    description = json.loads((tmp_path / "model" / "config.json").read_text())
    assert description["model_type"] == "raylab"


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        Encoder.from_pretrained(tmp_path)
    make_encoder().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    description = json.loads(config.read_text())
    config.write_text(json.dumps({**description, "model_type": "bert"}))
    with pytest.raises(InputError, match=r"config\.json: model_type is 'bert'"):
        Encoder.from_pretrained(tmp_path)
    config.write_text(json.dumps({**description, "vocab_size": 51}))
    with pytest.raises(InputError, match=r"tokens\.weight"):
        Encoder.from_pretrained(tmp_path)


def test_plain_encoder_is_bert() -> None:
    """The same weights give the hidden states of transformers' BertModel, padding included."""
    from transformers import BertConfig, BertModel

    encoder = make_encoder("joint").eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases and norms too, that they count
    bert = BertModel(
        BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=SMALL.dim,
            num_hidden_layers=SMALL.num_layers,
            num_attention_heads=SMALL.num_heads,
            intermediate_size=SMALL.ffn_dim,
            max_position_embeddings=SMALL.max_length,
        ),
        add_pooling_layer=False,
    ).eval()
    bert.load_state_dict(bert_weights(encoder))
    inputs, _ = make_batch()
    mask = torch.ones_like(inputs, dtype=torch.bool)
    mask[1, 5:] = False
    expected = bert(inputs, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(encoder(inputs, mask, "ar")[mask], expected[mask], atol=1e-5, rtol=1e-5)


def bert_weights(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's weights under BertModel's names."""
    ours = encoder.state_dict()
    weights = {
        "embeddings.word_embeddings.weight": ours["tokens.weight"],
        "embeddings.position_embeddings.weight": ours["positions.weight"],
        "embeddings.token_type_embeddings.weight": torch.zeros(2, SMALL.dim),
        "embeddings.LayerNorm.weight": ours["norm.weight"],
        "embeddings.LayerNorm.bias": ours["norm.bias"],
    }
    names = {
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.inner": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    for layer in range(SMALL.num_layers):
        for kind in ("weight", "bias"):
            for our_name, name in names.items():
                weights[f"encoder.layer.{layer}.{name}.{kind}"] = ours[f"layers.{layer}.{our_name}.{kind}"]
            parts = ours[f"layers.{layer}.attention.query_key_value.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                weights[f"encoder.layer.{layer}.attention.self.{name}.{kind}"] = part
    return weights
