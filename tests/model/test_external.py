from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raylab.config import ModelConfig
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.model import Encoder, ExternalEncoder, load_encoder

Folder = Callable[[str], Path]
KINDS = ("bert", "deberta", "distilbert", "xlm", "xlm_roberta", "xlm_with_languages", "xmod")
POSITIONS = 20


def rows_of(tokenizer: Tokenizer) -> list[list[int]]:
    """A text and a pair, of different lengths."""
    first, second = tokenizer.encode("the cat"), tokenizer.encode("a house")
    pair = [*tokenizer.begin, *first, *tokenizer.between, *second, *tokenizer.end]
    return [[*tokenizer.begin, *first, *tokenizer.end], pair]


def padded(rows: list[list[int]], fill: int) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [fill] * (length - len(row)) for row in rows])
    mask = torch.tensor([[place < len(row) for place in range(length)] for row in rows])
    return input_ids, mask


def language_inputs(kind: str, input_ids: Tensor) -> dict[str, Tensor]:
    """Hindi, as each model wants it."""
    if kind == "xmod":
        return {"lang_ids": torch.full((len(input_ids),), 2)}
    return {"langs": torch.full_like(input_ids, 2)} if kind == "xlm_with_languages" else {}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_transformers(kind: str, external: Folder, stored: Folder) -> None:
    """Of its own model and tokenizer, one sequence at a time: pairs and padding are right, then, too."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(external(kind)).eval()
    theirs = AutoTokenizer.from_pretrained(stored(kind) / "tokenizer")
    encoder = load_encoder(stored(kind) / "model")
    assert isinstance(encoder, ExternalEncoder)
    rows = rows_of(Tokenizer.load(stored(kind) / "tokenizer"))
    hidden = encoder(*padded(rows, 0), "hi")
    assert hidden.shape == (2, len(rows[1]), encoder.dim)
    for row, found, texts in zip(rows, hidden, (("the cat",), ("the cat", "a house")), strict=True):
        inputs = theirs(*texts, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == row
        if kind in ("xlm_roberta", "deberta"):
            inputs.pop("token_type_ids", None)  # they have one segment
        expected = model(**inputs, **language_inputs(kind, inputs["input_ids"])).last_hidden_state
        torch.testing.assert_close(found[: len(row)], expected[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(encoder(inputs["input_ids"], None, "hi"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_padding_does_not_matter(kind: str, stored: Folder) -> None:
    encoder = load_encoder(stored(kind) / "model")
    rows = rows_of(Tokenizer.load(stored(kind) / "tokenizer"))
    input_ids, mask = padded(rows, 0)
    expected = encoder(input_ids, mask, "hi")[mask]
    for fill in (3, 11):
        assert torch.equal(encoder(padded(rows, fill)[0], mask, "hi")[mask], expected)
    longer = torch.nn.functional.pad(input_ids, (0, 3), value=7)
    found = encoder(longer, torch.nn.functional.pad(mask, (0, 3)), "hi")[:, : mask.shape[1]][mask]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["xlm_roberta", "xmod"])
def test_positions_count_from_the_first_token(kind: str, stored: Folder) -> None:
    """In models of RoBERTa's kind, whatever stands before it."""
    encoder = load_encoder(stored(kind) / "model")
    input_ids = torch.tensor([[0, 9, 7, 5, 2]])
    shifted = torch.nn.functional.pad(input_ids, (3, 0), value=11)
    mask = torch.arange(8)[None] >= 3
    expected = encoder(input_ids, None, "en")
    torch.testing.assert_close(encoder(shifted, mask, "en")[:, 3:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_the_longest_length(kind: str, stored: Folder) -> None:
    encoder = load_encoder(stored(kind) / "model")
    assert encoder.max_length == POSITIONS
    input_ids = torch.full((1, POSITIONS + 1), 5)
    assert encoder(input_ids[:, :POSITIONS], None, "en").isfinite().all()
    with pytest.raises(ValueError, match=r"21 tokens.*20"):
        encoder(input_ids, None, "en")


@pytest.mark.parametrize("kind", ["xmod", "xlm_with_languages"])
def test_languages_are_routed(kind: str, stored: Folder) -> None:
    encoder = load_encoder(stored(kind) / "model")
    input_ids = torch.full((2, 5), 6)
    english, swahili = encoder(input_ids, None, "en"), encoder(input_ids, None, "sw")
    assert not torch.allclose(english, swahili)
    if kind == "xmod":
        assert torch.equal(encoder(input_ids, None, "sw_KE"), swahili)
    encoder.check_language("hi")
    for call in (lambda: encoder(input_ids, None, "te"), lambda: encoder.check_language("te")):
        with pytest.raises(InputError, match=r"no language 'te'; it has .*en.*hi"):
            call()
    load_encoder(stored("bert") / "model").check_language("te")


def test_training_in_one_language_leaves_the_others_alone(stored: Folder) -> None:
    encoder = load_encoder(stored("xmod") / "model")
    names = list(encoder.state_dict())
    encoder(torch.full((2, 5), 6), None, "sw").sum().backward()
    assert list(encoder.state_dict()) == names
    for name, parameter in encoder.language_specific_parameters().items():
        assert (parameter.grad is not None) == ("sw_KE" in name)


@pytest.mark.parametrize(("kind", "count"), [("xmod", 24), ("xlm_with_languages", 1), ("xlm", 0), ("bert", 0)])
def test_language_specific_parameters(kind: str, count: int, stored: Folder) -> None:
    """The rest is a model that gives all languages the same hidden states."""
    encoder = load_encoder(stored(kind) / "model")
    specific = encoder.language_specific_parameters()
    assert len(specific) == count
    assert all(parameter is encoder.get_parameter(name) for name, parameter in specific.items())
    for parameter in specific.values():
        torch.nn.init.zeros_(parameter)
    input_ids = torch.full((2, 5), 6)
    assert torch.equal(encoder(input_ids, None, "en"), encoder(input_ids, None, "sw"))


@pytest.mark.parametrize("kind", ["bert", "xlm", "xmod"])
def test_finetuned_weights_survive_saving(kind: str, stored: Folder, tmp_path: Path) -> None:
    encoder = load_encoder(stored(kind) / "model").train()
    input_ids, mask = padded(rows_of(Tokenizer.load(stored(kind) / "tokenizer")), 0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.1)
    encoder(input_ids, mask, "en").square().mean().backward()
    optimizer.step()
    encoder.eval().save_pretrained(tmp_path / "model")
    loaded = load_encoder(tmp_path / "model")
    assert torch.equal(loaded(input_ids, mask, "en"), encoder(input_ids, mask, "en"))
    assert not torch.allclose(
        loaded(input_ids, mask, "en"), load_encoder(stored(kind) / "model")(input_ids, mask, "en")
    )


def test_weights_are_float32(external: Folder, tmp_path: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(external("bert"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load_encoder(tmp_path).parameters()} == {torch.float32}


def test_dropout_is_the_models(stored: Folder) -> None:
    encoder = load_encoder(stored("bert") / "model")
    input_ids = torch.full((2, 5), 6)
    assert encoder.dropout_probability == 0.1
    assert not torch.equal(encoder.train()(input_ids, None, "en"), encoder(input_ids, None, "en"))


def test_own_encoders_are_opened_as_such(tmp_path: Path) -> None:
    own = Encoder(ModelConfig(num_layers=1, dim=16, num_heads=2, dropout=0.3, max_length=9), 50, ("en",), "adapter")
    own.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, Encoder)
    assert (encoder.dim, encoder.max_length, encoder.dropout_probability) == (16, 9, 0.3)
    assert encoder.language_specific_parameters().keys() == encoder.specific_parameters("en").keys()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"config\.json: no such file"),
        ("{", r"config\.json: not JSON"),
        ('{"model_type": "nothing"}', r"config\.json: not a model that transformers knows: .*nothing"),
        ('{"model_type": "gpt2"}', r"config\.json: gpt2 is no encoder"),
        ('{"model_type": "bart"}', r"config\.json: bart is an encoder with a decoder"),
        ('{"model_type": "bert", "is_decoder": true}', r"config\.json: bert is no encoder"),
    ],
)
def test_what_is_no_encoder_is_refused(config: str | None, message: str, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_transformers_is_imported_when_it_is_needed() -> None:
    """It takes seconds, and no model of raylab's own needs it."""
    program = "import raylab.model, sys; sys.exit(any(name in sys.modules for name in ('transformers', 'tokenizers')))"
    subprocess.run([sys.executable, "-c", program], check=True)
