from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from raylab.config import ModelConfig
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.model import Encoder, import_model, load_encoder, model_fingerprint

Folder = Callable[[str], Path]


@pytest.fixture
def copy(external: Folder, tmp_path: Path) -> Folder:
    """A model's folder that a test may change."""
    return lambda kind: Path(shutil.copytree(external(kind), tmp_path / "copy"))


def hidden(folder: Path) -> torch.Tensor:
    return load_encoder(folder)(torch.full((2, 5), 6), None, "en")


def test_what_is_written_and_returned(external: Folder, tmp_path: Path) -> None:
    said: list[tuple[str, float]] = []
    found = import_model(str(external("xmod")), tmp_path / "job", report=lambda *state: said.append(state))
    encoder = load_encoder(tmp_path / "job" / "model")
    assert found == {
        "model_type": "xmod",
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "dim": 16,
        "layers": 2,
        "vocab_size": 43,
        "max_length": 20,
        "languages": ["en_XX", "sw_KE", "hi_IN"],
    }
    assert json.loads(json.dumps(found)) == found
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"job/model/config.json", "job/model/model.safetensors", "job/tokenizer/tokenizer.json"} <= written
    assert not list(tmp_path.rglob(".*"))
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_what_lay_there_is_replaced(external: Folder, tmp_path: Path) -> None:
    import_model(str(external("bert")), tmp_path)
    (tmp_path / "result.json").write_text("{}")
    import_model(str(external("xlm_roberta")), tmp_path)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "xlm-roberta"
    assert (tmp_path / "result.json").is_file()


def test_an_imported_model_can_be_imported(stored: Folder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(stored("bert") / "model", tmp_path / "source"))
    shutil.copytree(stored("bert") / "tokenizer", source, dirs_exist_ok=True)
    import_model(str(source), tmp_path / "job")
    assert torch.equal(hidden(tmp_path / "job" / "model"), hidden(stored("bert") / "model"))


def test_a_tokenizer_may_lie_elsewhere(external: Folder, copy: Folder, tmp_path: Path) -> None:
    source = copy("xmod")
    (source / "sentencepiece.bpe.model").unlink()
    with pytest.raises(InputError, match=r"no tokenizer; .* or external\.tokenizer"):
        import_model(str(source), tmp_path / "job")
    import_model(str(source), tmp_path / "job", tokenizer=str(external("xlm_roberta")))
    import_model(str(external("xlm_roberta")), tmp_path / "other")
    text = "the big cat sees a tree"
    assert Tokenizer.load(tmp_path / "job" / "tokenizer").encode(text) == (
        Tokenizer.load(tmp_path / "other" / "tokenizer").encode(text)
    )
    kept = model_fingerprint(str(source), weights=False)
    (source / "model.safetensors").write_bytes(b"other weights")
    assert model_fingerprint(str(source), weights=False) == kept


@pytest.mark.parametrize("form", ["shards", "pickle", "shards of pickles", "bfloat16"])
def test_forms_of_weights(form: str, external: Folder, copy: Folder, tmp_path: Path) -> None:
    source = copy("bert")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    if form == "bfloat16":
        save_file({name: value.bfloat16() for name, value in weights.items()}, source / "model.safetensors")
    elif form == "pickle":
        torch.save(weights, source / "pytorch_model.bin")
    else:
        suffix, save = ("safetensors", save_file) if form == "shards" else ("bin", torch.save)
        stem = "model" if form == "shards" else "pytorch_model"
        names = sorted(weights)
        places = {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"{stem}-0000{number + 1}-of-00002.{suffix}"
            save({name: weights[name] for name in part}, source / file)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (source / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    before = model_fingerprint(str(source))
    import_model(str(source), tmp_path / "job")
    tolerance = 0.05 if form == "bfloat16" else 0.0
    expected = hidden(external("bert"))
    torch.testing.assert_close(hidden(tmp_path / "job" / "model"), expected, atol=tolerance, rtol=tolerance)
    last = sorted(source.glob("*model*.safetensors") or source.glob("*model*.bin"))
    with (last or sorted(source.glob("*.bin")))[-1].open("ab") as stream:
        stream.write(b"x")
    assert model_fingerprint(str(source)) != before


def test_fingerprint_is_of_what_is_read(copy: Folder, external: Folder) -> None:
    source = copy("bert")
    before = model_fingerprint(str(source))
    assert model_fingerprint(str(external("bert"))) == before
    (source / "README.md").write_text("a note")
    (source / "tf_model.h5").write_bytes(b"other weights")
    assert model_fingerprint(str(source)) == before
    for name in ("vocab.txt", "config.json", "model.safetensors"):
        with (source / name).open("a") as stream:
            stream.write(" ")
        after = model_fingerprint(str(source))
        assert after != before
        before = after


def test_sentencepiece_model_becomes_a_fast_tokenizer(external: Folder, stored: Folder) -> None:
    """XLM-R's ids are one higher than SentencePiece's, but for the special ones."""
    tokenizer = Tokenizer.load(stored("xlm_roberta") / "tokenizer")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(external("xlm_roberta") / "sentencepiece.bpe.model"))
    for text in ("the small cat sees a नदी.", "नया мир", "it's  Bad, dog"):
        assert tokenizer.encode(text) == [piece + 1 for piece in pieces.encode(text)]
    assert (tokenizer.begin, tokenizer.between, tokenizer.end) == ((0,), (2, 2), (2,))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (1, 3, 42)


def drop_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def rename_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("bert.", "other."): value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def add_tokens(folder: Path) -> None:
    with (folder / "vocab.txt").open("a") as stream:
        stream.writelines(f"token{number}\n" for number in range(5))


def shorten_vocabulary(folder: Path) -> None:
    lines = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join(lines[:20]) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_weights, r"the weights lack 16 of the model's \d+ tensors, such as encoder\.layer\.1\..*bert"),
        (rename_weights, r"the weights lack \d+ of the model's"),
        (spoil_weights, r"hidden states are not finite"),
        (cut_weights, r"the weights cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"the weights cannot be read: .*no file"),
        (lambda folder: change_config(folder, hidden_size=32), r"the weights cannot be read"),
        (lambda folder: change_config(folder, model_type="gpt2"), r"gpt2 is no encoder"),
        (
            lambda folder: change_config(folder, model_type="new", auto_map={"AutoModel": "modeling_new.NewModel"}),
            r"config\.json: not a model that transformers knows",
        ),
        (lambda folder: (folder / "vocab.txt").unlink(), r"no tokenizer; one of tokenizer\.json, .* expected"),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe"), r"the tokenizer cannot be read"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            r"tokenizer_config\.json: text would be lowercased",
        ),
        (add_tokens, r"the tokenizer has ids up to 103, the model embeds 99 tokens"),
        (shorten_vocabulary, r"the tokenizer has \d+ tokens, the model embeds 99"),
    ],
)
def test_bad_models_are_refused(change: Callable[[Path], object], message: str, copy: Folder, tmp_path: Path) -> None:
    source = copy("bert")
    change(source)
    with pytest.raises(InputError, match=message) as caught:
        import_model(str(source), tmp_path / "job")
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "job").exists()


def test_raylabs_own_models_are_refused(tmp_path: Path) -> None:
    Encoder(ModelConfig(), 50, ("en",), "mono").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config\.json: a raylab model"):
        import_model(str(tmp_path), tmp_path / "job")


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "~/no such folder", "a/b/c"])
def test_folders_that_are_not_there(model: str, tmp_path: Path) -> None:
    for call in (lambda: model_fingerprint(model), lambda: import_model(model, tmp_path)):
        with pytest.raises(InputError, match=r"no such folder; one with config\.json"):
            call()


def test_local_folders_have_no_revision(external: Folder) -> None:
    with pytest.raises(InputError, match=r"a local folder has no revision 'v2'"):
        model_fingerprint(str(external("bert")), "v2")


def run_offline(program: str, cache: Path) -> str:
    """What a program prints that may not reach the hub and finds its cache in this folder."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_hub_out_of_reach(external: Folder, tmp_path: Path) -> None:
    program = """if True:
        from raylab.errors import InputError
        from raylab.model import model_fingerprint
        for name in ("someone/model", "no model of this name"):
            try:
                model_fingerprint(name)
            except InputError as error:
                print(error)
    """
    first, second = run_offline(program, tmp_path).splitlines()
    assert first.startswith("someone/model: no such folder, and the Hugging Face hub cannot be reached")
    assert first.endswith("a local folder with the model's files would do")
    assert second == "no model of this name: no such folder, and no name that a model on the hub could have"


@pytest.mark.slow
def test_hub_out_of_reach_but_in_its_cache(external: Folder, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(external("bert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    program = f"""if True:
        from pathlib import Path
        from raylab.model import import_model, model_fingerprint
        print(model_fingerprint("someone/model"))
        print(model_fingerprint("someone/model", "main"))
        import_model("someone/model", Path({str(tmp_path / "job")!r}))
    """
    assert run_offline(program, tmp_path / "cache").split() == [commit, commit]
    assert torch.equal(hidden(tmp_path / "job" / "model"), hidden(external("bert")))
