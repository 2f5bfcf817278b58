"""Labelled files line by line: what all their readers share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from raylab.data.labelled import Labelled
from raylab.errors import InputError

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is refused, so that no file fills the memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Lines:
    """The lines of a UTF-8 file, with or without a byte order mark, each with its number, counted from 1.

    Only a line feed ends a line, with or without a carriage return before it: other characters that Unicode counts as
    line ends do occur inside words.

    Args:
        dataset: The file.

    Attributes:
        path: The file.
        whole: Whether the last line that was read ended in a line feed.

    Raises:
        InputError: On reading: the file cannot be read, or a line is not UTF-8 or longer than `LONGEST_LINE`.
    """

    def __init__(self, dataset: Labelled) -> None:
        self.path = dataset.path
        self.whole = True
        self._dataset = dataset

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 0
        try:
            with self._dataset.open() as stream:
                while raw := stream.readline(LONGEST_LINE + 1):
                    number += 1
                    if len(raw) > LONGEST_LINE:
                        message = f"the line is longer than {LONGEST_LINE} bytes; is it one file of another format?"
                        raise InputError.at(self.path, number, message)
                    if number == 1:
                        raw = raw.removeprefix(_BYTE_ORDER_MARK)
                    self.whole = raw.endswith(b"\n")
                    yield number, decoded(self.path, number, raw.removesuffix(b"\n").removesuffix(b"\r"))
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.path, error) from None


def decoded(path: Path, number: int, raw: bytes) -> str:
    """A line as text.

    Raises:
        InputError: It is not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError.at(
            path, number, f"byte 0x{raw[error.start]:02x} at {error.start + 1} is not UTF-8; convert the file"
        ) from None


def unreadable(path: Path, error: Exception) -> InputError:
    """What is wrong with a file that cannot be opened or uncompressed."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputError.at(path, None, f"cannot be read ({reason}); a labelled file should be there")


def read_line_blocks(lines: Lines) -> Iterator[list[tuple[int, str]]]:
    """The blocks of lines between empty lines, each line with its number."""
    block: list[tuple[int, str]] = []
    for number, line in lines:
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def require_columns(path: Path, number: int, columns: list[str], expected: int, names: str) -> list[str]:
    """The columns of a line, as they are.

    Args:
        path: The file, for the error.
        number: The line's number, for the error.
        columns: The line's columns.
        expected: How many there must be.
        names: What the columns are, and what is between them, for the error.

    Raises:
        InputError: There are more or fewer columns.
    """
    if len(columns) != expected:
        raise InputError.at(path, number, f"{len(columns)} column{'s' * (len(columns) != 1)}, not {expected} ({names})")
    return columns
