"""Files of text to their records: lines, the text field of JSON lines, the text column of Parquet files.

Nothing here holds a file: blocks of about 1 MiB are read, a line takes at most 8 MiB, and of a Parquet file a few
hundred rows and the pages they lie in are held.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylab.data.location import TextFile, reach
from raylab.errors import InputError

InvalidUtf8 = Literal["stop", "skip"]

LONGEST_LINE = 8 << 20
"""Bytes; a longer line is refused, so that a file without line ends cannot fill the memory."""

_BLOCK_BYTES = 1 << 20  # in smaller ones, more of the words are new to their block, which `StoreEncoder` looks up
_ROWS_AT_ONCE = 256
_BREAKS = re.compile("[\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # what `str.splitlines` ends a line at, beside \n
_ASCII_BREAKS = b"\v\f\r\x1c\x1d\x1e"
_BREAKS_TO_SPACES = bytes.maketrans(_ASCII_BREAKS, b" " * len(_ASCII_BREAKS))
_OTHER_SPACES = np.array(  # the UTF-8 of white space that is not ASCII, sorted; a last one that is none
    [0xC285, 0xC2A0, 0xE19A80, *range(0xE28080, 0xE2808B), 0xE280A8, 0xE280A9, 0xE280AF, 0xE2819F, 0xE38080, 1 << 24]
)
_ARE_BREAKS = np.isin(_OTHER_SPACES, [0xC285, 0xE280A8, 0xE280A9])
_REENCODE = "re-encode the file as UTF-8, or set data.invalid_utf8: skip"


@dataclass
class Reading:
    """Running totals of one pass over text.

    Attributes:
        bytes: Bytes read so far, of the files as they lie there.
        skipped_lines: Lines, or records, left out because they are not UTF-8.
        dropped_duplicates: Training sentences left out because they also stand in the valid split, or stood before.
    """

    bytes: int = 0
    skipped_lines: int = 0
    dropped_duplicates: int = 0


def split_lines(text: str) -> list[str]:
    """The lines of a text that are not blank, without the white space around them.

    A line ends at \\n alone; anything else that some programs would end it at, such as U+2028, becomes a space.
    """
    lines = text.splitlines()
    if len(lines) != text.count("\n") + (text[-1:] not in ("", "\n")):
        lines = _BREAKS.sub(" ", text).split("\n")
    return [line for line in map(str.strip, lines) if line]


def split_utf8(block: bytes) -> list[bytes]:
    """What `split_lines` gives for a text in UTF-8, in UTF-8, in half the time."""
    if any(mark in block for mark in _ASCII_BREAKS):
        block = block.translate(_BREAKS_TO_SPACES)
    lines = block.split(b"\n")
    if b"\x1f" in block:  # white space for `str.strip` alone
        return list(map(str.encode, split_lines(block.decode())))
    if not block.isascii():
        for number in _lines_with_rare_spaces(block):
            lines[number] = "".join(split_lines(lines[number].decode())).encode()
    return list(filter(None, map(bytes.strip, lines)))


def _lines_with_rare_spaces(block: bytes) -> list[int]:
    """Numbers of the lines with a line end that `bytes.split` does not know, or with white space that `bytes.strip`
    does not know and may come to: it is beside other white space or a line end.
    """
    codes = np.frombuffer(b"\n%b\n\n" % block, np.uint8)
    starts = np.flatnonzero((codes == 0xC2) | (codes - np.uint8(0xE1) < 3))  # of characters that may be white space
    first, second, third = (codes[starts + place].astype(np.int32) for place in range(3))
    short = first == 0xC2
    characters = np.where(short, first << 8 | second, first << 16 | second << 8 | third)
    kinds = np.searchsorted(_OTHER_SPACES, characters)
    spaces = np.flatnonzero(_OTHER_SPACES[kinds] == characters)
    if not len(spaces):
        return []
    starts, kinds, ends = starts[spaces], kinds[spaces], (starts + np.where(short, 2, 3))[spaces]
    rare = starts[_ARE_BREAKS[kinds] | (codes[starts - 1] <= 0x20) | (codes[ends] <= 0x20)]
    numbers: list[int] = np.unique(np.searchsorted(np.flatnonzero(codes[1:] == 0x0A), rare - 1)).tolist()
    return numbers


def read_lines(
    stream: BinaryIO, name: str, *, invalid_utf8: InvalidUtf8 = "stop", reading: Reading | None = None
) -> Iterator[list[bytes]]:
    """The lines of a stream of UTF-8, as `split_utf8` gives them, about 1 MiB at a time.

    Args:
        stream: What to read; a byte order mark at its start is dropped.
        name: What errors call it.
        invalid_utf8: On a line that is not UTF-8: stop, or skip and count it.
        reading: Totals to add to; its bytes are those of the stream.

    Raises:
        InputError: A line is not UTF-8 (if `stop`), or is longer than `LONGEST_LINE`.
    """
    reading = reading if reading is not None else Reading()
    for first, block in _line_blocks(stream, name):
        reading.bytes += len(block)
        if first == 1:
            block = block.removeprefix(codecs.BOM_UTF8)
        try:
            block.decode()
        except UnicodeDecodeError:
            valid = (line for _, line in _decode_lines(block, first, name, invalid_utf8, reading))
            block = "\n".join(valid).encode()
        if lines := split_utf8(block):
            yield lines


def _line_blocks(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Blocks that end at line ends, each with the number of its first line."""
    number, begun = 1, b""
    while block := stream.read(_BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        block = begun + block
        end = end and end + len(begun)
        longest = block.find(b"\n") if end else len(block)  # the others lie in a block that is shorter
        if longest > LONGEST_LINE:
            raise InputError.at(
                name,
                number,
                f"the line is longer than {LONGEST_LINE >> 20} MiB; one sentence, or document, a line would do",
            )
        if end:
            yield number, block[:end]
            number += int(np.count_nonzero(np.frombuffer(block, np.uint8, end) == 0x0A))  # faster than bytes.count
        begun = block[end:]
    if begun:
        yield number, begun


def _decode_lines(
    block: bytes, first: int, name: str, invalid_utf8: InvalidUtf8, reading: Reading
) -> Iterator[tuple[int, str]]:
    """The lines of a block with their numbers, but those that are not UTF-8."""
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), first):
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            if invalid_utf8 == "stop":
                byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
                raise InputError.at(name, number, f"{byte} is not UTF-8 ({error.reason}); {_REENCODE}") from None
            reading.skipped_lines += 1


def read_records(
    file: TextFile, *, text_field: str, invalid_utf8: InvalidUtf8, reading: Reading
) -> Iterator[list[str]]:
    """The records of a file, some at a time: lines that are not blank, or the texts of JSON objects or rows.

    Args:
        file: The file.
        text_field: The field, or column, that is text; where it is null, the record is left out.
        invalid_utf8: On a record that is not UTF-8: stop, or skip and count it.
        reading: Totals to add to.

    Raises:
        InputError: The file cannot be read, is cut off or is not what its suffix says; a line is too long, is no
            JSON object or lacks the field; a Parquet file lacks the column; a record is not UTF-8 (if `stop`).
    """
    before = reading.bytes
    with file.open() as raw:
        if file.format == "parquet":
            rows = _read_rows(raw, file, text_field, invalid_utf8, reading)
            yield from rows
        else:
            inner = Reading()
            stream: Any = _Guarded(_decompressed(raw, file), file)
            lines = (
                (
                    list(map(bytes.decode, block))
                    for block in read_lines(stream, file.name, invalid_utf8=invalid_utf8, reading=inner)
                )
                if file.format == "text"
                else _read_json(stream, file.name, text_field, invalid_utf8, inner)
            )
            for block in lines:
                reading.bytes = before + (raw.tell() if file.size else inner.bytes)
                yield block
            reading.skipped_lines += inner.skipped_lines
    reading.bytes = before + file.size


@dataclass
class _Guarded:
    """A stream whose failures are those of its file, in one line."""

    read_some: Callable[[int], bytes]
    file: TextFile

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        return reach(self.file.name, lambda: self.read_some(size))


def _decompressed(raw: BinaryIO, file: TextFile) -> Callable[[int], bytes]:
    """What reads a file's bytes as they were before it was compressed."""
    if file.compression is None:
        return raw.read
    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), file.compression)
    return lambda size: bytes(stream.read_buffer(size))  # `read` never frees its megabyte where it fails


def _read_json(
    stream: BinaryIO, name: str, text_field: str, invalid_utf8: InvalidUtf8, reading: Reading
) -> Iterator[list[str]]:
    for first, block in _line_blocks(stream, name):
        reading.bytes += len(block)
        if first == 1:
            block = block.removeprefix(codecs.BOM_UTF8)
        texts = []
        for number, line in _decode_lines(block, first, name, invalid_utf8, reading):
            if not line or line.isspace():
                continue
            text = _text_of(line, name, number, text_field)
            if text is None or text.isascii() or _is_unicode(text):
                texts.append(text)
            elif invalid_utf8 == "stop":
                raise InputError.at(
                    name, number, f"half of a surrogate pair in {text_field!r} is not Unicode; {_REENCODE}"
                )
            else:
                reading.skipped_lines += 1
        if kept := [text for text in texts if text]:
            yield kept


def _text_of(line: str, name: str, number: int, text_field: str) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError.at(name, number, f"not JSON ({error}); an object a line is expected") from None
    if not isinstance(record, dict):
        raise InputError.at(
            name, number, f"found a JSON {_kind(record)}; an object with the field {text_field!r} is expected"
        )
    if text_field not in record:
        there = ", ".join(map(repr, record)) or "none"
        raise InputError.at(
            name, number, f"no field {text_field!r}; those there are {_short(there)}; data.text_field names it"
        )
    text = record[text_field]
    if text is not None and not isinstance(text, str):
        raise InputError.at(name, number, f"the field {text_field!r} is a JSON {_kind(text)}; a string is expected")
    return text


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_rows(
    raw: BinaryIO, file: TextFile, text_field: str, invalid_utf8: InvalidUtf8, reading: Reading
) -> Iterator[list[str]]:
    table = reach(file.name, lambda: pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BLOCK_BYTES))
    schema = reach(file.name, lambda: table.schema_arrow)
    if text_field not in schema.names:
        there = ", ".join(map(repr, schema.names)) or "none"
        raise InputError.at(
            file.name, None, f"no column {text_field!r}; those there are {_short(there)}; data.text_field names it"
        )
    kind = schema.field(text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError.at(file.name, None, f"the column {text_field!r} is of type {kind}; strings are expected")
    batches = reach(file.name, lambda: table.iter_batches(_ROWS_AT_ONCE, columns=[text_field], use_threads=False))
    before, rows = reading.bytes, 0
    while (batch := reach(file.name, lambda: next(batches, None))) is not None:
        try:
            texts = batch.column(0).to_pylist()
        except UnicodeDecodeError:
            texts = _valid_texts(batch.column(0), rows, file.name, invalid_utf8, reading)
        rows += batch.num_rows
        reading.bytes = before + file.size * rows // max(rows, table.metadata.num_rows)
        if kept := [text for text in texts if text]:
            yield kept


def _valid_texts(column: pa.Array, before: int, name: str, invalid_utf8: InvalidUtf8, reading: Reading) -> list[str]:
    texts = []
    for number, value in enumerate(column, before + 1):
        try:
            texts.append(value.as_py() or "")
        except UnicodeDecodeError as error:
            if invalid_utf8 == "stop":
                raise InputError.at(name, None, f"row {number} is not UTF-8 ({error.reason}); {_REENCODE}") from None
            reading.skipped_lines += 1
    return texts
