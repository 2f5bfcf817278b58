"""Where text and labelled data come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raylab.config.base import Config, Fraction, Language, Positive, PositiveInt


class TextOptions(Config):
    """How files of text become the sentences of a study."""

    invalid_utf8: Literal["stop", "skip"] = Field(
        "stop", description="On a line that is not UTF-8: stop, or skip and count it."
    )
    text_field: str = Field("text", description="The field, or column, of JSON lines and Parquet files that is text.")
    sentence_split: Literal["lines", "rules"] = Field(
        "lines", description="A sentence is a line, or what rules of punctuation find in a line."
    )
    normalization: Literal["none", "nfc", "nfkc"] = Field("none", description="Unicode normalization form of all text.")
    deduplicate: bool = Field(
        False, description="Keep a training sentence once; takes 8 bytes of memory a distinct sentence."
    )
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.01,
        description="Share of the lines or documents held out, by content hash, as `valid` where there is none.",
    )
    meta_fraction: Fraction = Field(
        0.02, description="Share of the training sentences held out, by content hash, as the `meta` split."
    )


class DataConfig(TextOptions):
    """Where text and labelled data come from, and how text becomes tokens."""

    source: str = Field(
        "demo", description="`demo` (generated, no download), or a folder or URL: text/LANG, and TASK/LANG."
    )
    text: dict[Language, str] = Field(
        default_factory=dict,
        description="Text of a language that lies elsewhere: a path, folder or glob, a URL (s3://, gs://, ...), or "
        "hf:OWNER/NAME/FOLDER of the Hugging Face hub.",
    )
    labelled: str | None = Field(
        None, description="Folder of the labelled data, if they lie elsewhere: TASK/LANG, or XTREME's download."
    )
    demo_scale: Positive = Field(1e-3, description="Demo corpora: sentences, as a fraction of the paper's Table 1.")
    demo_seed: int = Field(0, description="Seed of the demo's generator.")
    tokenizer: Annotated[str, Field(min_length=1)] = Field(
        "bpe",
        description="`bpe` or `unigram`: trained with SentencePiece on each language set; or a SentencePiece model "
        "file or a folder of a Hugging Face tokenizer, used as it is.",
    )
    vocab_size: PositiveInt = Field(
        2000, description="Subwords of a tokenizer that is trained, shared by one language set, in pieces."
    )
    tokenizer_temperature: Positive = Field(
        2.0, description="T of the shares of text that a tokenizer is trained on, P_i ~ (bytes of i)^(1/T)."
    )
    aliases: dict[Language, Language] = Field(
        default_factory=dict,
        description="Further names of a language, each as good as a language of its own: with `subsample`, the paper's "
        "fr_l, `{fr_l: fr}`.",
    )
    subsample: dict[Language, PositiveInt] = Field(
        default_factory=dict, description="Most training sentences to keep, per language (the paper's fr_l, ru_l)."
    )
